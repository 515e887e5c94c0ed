"""The Flax decoder of all five families: logits and greedy continuations."""

from svdjax.model.decoder import Cache, Decoder, empty_cache, forward, init_params
from svdjax.model.generate import greedy

__all__ = ["Cache", "Decoder", "empty_cache", "forward", "greedy", "init_params"]
