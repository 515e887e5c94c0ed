"""A verdict on descent: two checkpoints in, one file out.

`svdjax.engine` is the way in.
"""
