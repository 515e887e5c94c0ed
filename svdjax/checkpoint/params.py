"""Whole models as pytrees: shapes, and loading for the decoder.

Leaves in the layout of `svdjax.model`: kernels [L, I, O], biases [L, O], norms [L, D].
"""

from __future__ import annotations

from typing import Any

import numpy as np

from svdjax.checkpoint.config import ModelConfig
from svdjax.checkpoint.families import FAMILIES, Weight
from svdjax.checkpoint.formats import FLOATS, count_nonfinite
from svdjax.checkpoint.matching import match_family, raise_faults
from svdjax.checkpoint.reader import Checkpoint
from svdjax.errors import InputError


def param_shapes(config: ModelConfig, dtype: Any = np.float32) -> dict[str, Any]:
    """Pytree of a model as `jax.ShapeDtypeStruct`s; nothing is allocated."""
    # The readers themselves do without.
    import jax
    from flax import traverse_util

    shapes = {
        weight.path: jax.ShapeDtypeStruct(weight.leaf_shape(config), dtype)
        for weight in FAMILIES[config.family].present(config)
    }
    return traverse_util.unflatten_dict(shapes, sep="/")


def load_params(
    checkpoint: Checkpoint, config: ModelConfig, dtype: Any = np.float32
) -> dict[str, Any]:
    """Reads a whole model into numpy arrays. Everything else here streams; this holds it all.

    Args:
        checkpoint: The checkpoint.
        config: Its configuration.
        dtype: Of the leaves; None keeps the storage dtype (of each leaf's first tensor).

    Returns:
        Nested dict of contiguous arrays in the layout of `param_shapes`.

    Raises:
        InputError: Tensors do not match the configuration (all mismatches at once), NaN or Inf,
            or a second head that differs from the embedding it should be tied to.
    """
    from flax import traverse_util

    checkpoint = checkpoint.model
    faults, left_out = match_family(checkpoint, config)
    raise_faults(f"{checkpoint.path} cannot be loaded", faults)
    if "lm_head.weight" in left_out:
        _check_tie(checkpoint)
    weights = FAMILIES[config.family].present(config)
    leaves = {weight.path: _leaf(checkpoint, weight, config, dtype) for weight in weights}
    return traverse_util.unflatten_dict(leaves, sep="/")


def _leaf(checkpoint: Checkpoint, weight: Weight, config: ModelConfig, dtype: Any) -> np.ndarray:
    names = weight.tensors(config)
    wanted = np.dtype(checkpoint.spec(names[0]).dtype if dtype is None else dtype)
    leaf = np.empty(weight.leaf_shape(config), wanted)
    for layer, name in enumerate(names):
        tensor = checkpoint.read(name)
        check_finite(checkpoint, name, tensor)
        tensor = tensor.T if weight.transposed else tensor
        leaf[layer if weight.stacked else ...] = tensor.astype(wanted, copy=False)
    return leaf


def check_finite(checkpoint: Checkpoint, name: str, tensor: np.ndarray) -> None:
    """Raises `InputError` naming file, tensor and count if there is any NaN or Inf."""
    if tensor.dtype not in FLOATS:
        return
    nans, infs = count_nonfinite(tensor)
    if nans or infs:
        file = checkpoint.where(name)
        raise InputError(
            f"{file}: tensor {name} holds {nans} NaN and {infs} Inf among {tensor.size} values; "
            "expected finite numbers"
        )


def _check_tie(checkpoint: Checkpoint) -> None:
    head, embedding = (
        checkpoint.read(name) for name in ("lm_head.weight", "model.embed_tokens.weight")
    )
    if not np.array_equal(head, embedding):
        file = checkpoint.where("lm_head.weight")
        raise InputError(
            f"{file}: lm_head.weight differs from model.embed_tokens.weight, though config.json "
            "ties them; set tie_word_embeddings to false or remove lm_head.weight"
        )
