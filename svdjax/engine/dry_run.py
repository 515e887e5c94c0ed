"""What the dry runs of the commands have in common: nothing fetched, and a model in a line."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator

import jax

from svdjax.checkpoint import Checkpoint, ModelConfig, param_shapes
from svdjax.engine.progress import size


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keeps huggingface_hub, which reads this when it is imported, from downloading."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def describe_model(checkpoint: Checkpoint, config: ModelConfig, dtype: str) -> str:
    """Family, shape and size of a model that is held in a dtype, in one line."""
    shapes = jax.tree.leaves(param_shapes(config))
    count = sum(math.prod(leaf.shape) for leaf in shapes)
    itemsize = jax.numpy.dtype(dtype).itemsize
    return (
        f"{checkpoint.source}: {config.family}, {config.num_layers} layers, width "
        f"{config.hidden_size}, {config.num_heads} heads, {count / 1e6:.1f} M parameters, "
        f"{size(count * itemsize)} in {dtype}"
    )


def describe_lengths(lengths: list[int]) -> str:
    """Smallest and largest of some numbers of tokens."""
    least, most = min(lengths), max(lengths)
    return f"{most} tokens" if least == most else f"{least} to {most} tokens"
