"""Generation with a key-value cache: prefill, decoding on the devices, continuous batching."""

from svdjax.model.generation.generate import Completion, Generator, Request, greedy
from svdjax.model.generation.sampling import Sampling

__all__ = ["Completion", "Generator", "Request", "Sampling", "greedy"]
