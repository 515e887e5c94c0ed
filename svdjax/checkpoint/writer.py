"""From a pytree to a Hugging Face directory: one tensor in memory at a time, all or nothing."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
import numpy as np

from svdjax.checkpoint import files
from svdjax.checkpoint.config import model_config
from svdjax.checkpoint.families import FAMILIES, Weight
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.replace import copy_companions, staged_directory, write_text
from svdjax.checkpoint.shards import LazyTensor, write_shards
from svdjax.errors import InputError


def save_checkpoint(
    directory: str | os.PathLike[str],
    params: Mapping[str, Any],
    config_dict: Mapping[str, Any],
    *,
    dtype: str = "bfloat16",
    max_shard_bytes: int = 5_000_000_000,
    copy_from: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a pytree as a Hugging Face directory that transformers loads.

    Args:
        directory: Where to; must not exist, be empty, or hold a checkpoint that `overwrite`
            allows to replace.
        params: Nested dict of numpy or jax arrays in the layout of `param_shapes`.
        config_dict: The content of config.json; the dtype and missing architectures are filled in.
        dtype: Storage dtype: "bfloat16", "float16" or "float32". Rounding is to nearest even.
        max_shard_bytes: Above this the tensors are spread over several files with an index.
        copy_from: Directory whose tokenizer, generation config and licence are copied.
        overwrite: Replace a checkpoint that is there.

    Returns:
        The directory. It appears whole or not at all: everything is written beside it, synced to
        disk and renamed.

    Raises:
        InputError: params do not fit the config (all mismatches at once), a value does not fit
            the dtype, or the directory is in use.
    """
    from flax import traverse_util  # the readers, which are imported with this, do without

    config = model_config(config_dict)
    stored = _storage_dtype(dtype)
    leaves = traverse_util.flatten_dict(params, sep="/")
    family = FAMILIES[config.family]
    weights = family.present(config)
    _check_leaves(leaves, {weight.path: weight.leaf_shape(config) for weight in weights})
    outgoing = [
        LazyTensor(
            family.stored_name(name),
            weight.stored_shape(config),
            stored,
            _slice_of(leaves, weight, place),
        )
        for weight in weights
        for place, name in zip(weight.places(config), weight.tensors(config))
    ]
    raw = {"architectures": [family.architecture], **config_dict}
    return write_checkpoint(
        directory,
        outgoing,
        with_dtype(raw, dtype),
        max_shard_bytes=max_shard_bytes,
        copy_from=copy_from,
        overwrite=overwrite,
    )


def write_checkpoint(
    directory: str | os.PathLike[str],
    outgoing: Sequence[LazyTensor],
    config_dict: Mapping[str, Any],
    *,
    max_shard_bytes: int = 5_000_000_000,
    copy_from: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes tensors as they are made, one at a time, with config.json; see `save_checkpoint`."""
    target = pathlib.Path(directory).expanduser()
    with staged_directory(target, overwrite) as scratch:
        if copy_from is not None:
            copy_companions(pathlib.Path(copy_from), scratch)
        text = json.dumps(dict(config_dict), indent=2, allow_nan=False) + "\n"
        write_text(scratch / "config.json", text)
        write_shards(scratch, outgoing, max_shard_bytes)
    return target


def _storage_dtype(name: str) -> np.dtype:
    try:
        dtype = np.dtype(name)
    except TypeError:
        dtype = None
    if dtype not in FLOATS:
        raise InputError(f"dtype {name!r}: expected bfloat16, float16 or float32")
    assert dtype is not None
    return dtype


def with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Names the dtype in the key of the form (old or v5) that the config has."""
    modern = "dtype" in config or "rope_parameters" in config
    named = dict(config) | {"dtype" if modern else "torch_dtype": dtype}
    if modern:
        named.pop("torch_dtype", None)
    return named


def _check_leaves(leaves: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    faults = [
        f"{path} is missing, expected {shape}"
        for path, shape in expected.items()
        if path not in leaves
    ]
    for path, leaf in leaves.items():
        if path not in expected:
            faults.append(f"{path} {tuple(leaf.shape)} is not part of this model")
        elif tuple(leaf.shape) != expected[path]:
            faults.append(f"{path} has shape {tuple(leaf.shape)}, expected {expected[path]}")
    if faults:
        raise InputError(f"parameters do not fit the config: {files.listed(faults)}")


def _slice_of(
    leaves: Mapping[str, Any], weight: Weight, place: tuple[int, ...]
) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        array = np.asarray(leaves[weight.path][place])
        return array.T if weight.transposed else array

    return make
