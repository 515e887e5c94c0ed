"""Constructions and initialisations of checkpoints: jobs, builders, model cards, the sweep's stage.

`svdjax.engine` is the way in.
"""
