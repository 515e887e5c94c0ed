"""A verdict on common origin: two checkpoints or more in, one file out.

`svdjax.engine` is the way in.
"""
