"""The sweep's stage of null models: what a random change of the same size would have shown.

Empty, so that its options can be read without jax.
"""
