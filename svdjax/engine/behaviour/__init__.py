"""Jobs that run models: benchmarks.

`svdjax.engine` is the way in.
"""
