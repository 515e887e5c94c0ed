"""The sweep's stage of null models: the change with random signs, and in random directions.

Empty, so that its options can be read without jax.
"""
