"""The temperature stage: σ scaled by layer and projection, and what that does to the model.

Imported module by module: the job is read before jax is loaded.
"""
