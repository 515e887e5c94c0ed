"""Flax decoder of all families: logits, attention entropies and hidden states, generation."""

from svdjax.model.decoder import Decoder, forward, init_params, separate_layers
from svdjax.model.generation import Completion, Generator, Request, Sampling, greedy
from svdjax.model.sharding import decoder_mesh, shard_params
from svdjax.model.taps import Taps

__all__ = [
    "Completion",
    "Decoder",
    "Generator",
    "Request",
    "Sampling",
    "Taps",
    "decoder_mesh",
    "forward",
    "greedy",
    "init_params",
    "separate_layers",
    "shard_params",
]
