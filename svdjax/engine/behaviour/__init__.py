"""Jobs that run models: benchmarks, and probes of what goes on inside.

`svdjax.engine` is the way in.
"""
