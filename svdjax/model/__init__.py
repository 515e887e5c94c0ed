"""The Flax decoder of all families: logits, what goes on inside, and generation."""

from svdjax.model.decoder import Decoder, forward, init_params, separate_layers
from svdjax.model.generation import Completion, Generator, Request, Sampling, greedy
from svdjax.model.placing import decoder_mesh, place
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
    "place",
    "separate_layers",
]
