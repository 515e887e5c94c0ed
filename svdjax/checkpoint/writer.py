"""Streaming writer of Hugging Face directories: one tensor in memory at a time, all or nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  (teaches numpy the name bfloat16)
import numpy as np

from svdjax.checkpoint import files
from svdjax.checkpoint.config import model_config
from svdjax.checkpoint.families import FAMILIES, Weight
from svdjax.checkpoint.formats import CODES, FLOATS, count_nonfinite
from svdjax.errors import InputError

_COMPANIONS = (
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "chat_template*",
    "generation_config.json",
    "LICEN[SC]E*",
    "NOTICE*",
    "USE_POLICY*",
)


@dataclasses.dataclass(frozen=True)
class Outgoing:
    """A tensor to be written.

    Attributes:
        name: Name in the checkpoint.
        shape: As stored ([out, in] for matrices).
        dtype: As stored.
        make: Called once, when it is its turn; returns the array, in any dtype.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


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
    """Write a pytree as a Hugging Face directory that transformers loads.

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
    config = model_config(config_dict)
    stored = _storage_dtype(dtype)
    leaves = dict(_leaves(params))
    weights = FAMILIES[config.family].present(config)
    _check_leaves(leaves, {weight.path: weight.leaf_shape(config) for weight in weights})
    outgoing = [
        Outgoing(name, weight.stored_shape(config), stored, _slice_of(leaves, weight, layer))
        for weight in weights
        for layer, name in enumerate(weight.tensors(config))
    ]
    raw = {"architectures": [FAMILIES[config.family].architecture], **config_dict}
    return write_checkpoint(
        directory,
        outgoing,
        _with_dtype(raw, dtype),
        max_shard_bytes=max_shard_bytes,
        copy_from=copy_from,
        overwrite=overwrite,
    )


def write_checkpoint(
    directory: str | os.PathLike[str],
    outgoing: Sequence[Outgoing],
    config_dict: Mapping[str, Any],
    *,
    max_shard_bytes: int = 5_000_000_000,
    copy_from: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Write tensors as they are made, one at a time, with config.json; see `save_checkpoint`."""
    target = pathlib.Path(directory).expanduser()
    try:
        with _replacing(target, overwrite) as scratch:
            if copy_from is not None:
                _copy_companions(pathlib.Path(copy_from), scratch)
            text = json.dumps(dict(config_dict), indent=2, allow_nan=False) + "\n"
            _write_text(scratch / "config.json", text)
            _write_shards(scratch, outgoing, max_shard_bytes)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({files.one_line(error)})") from None
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


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Name the dtype in the key of the form (old or v5) that the config has."""
    modern = "dtype" in config or "rope_parameters" in config
    named = dict(config) | {"dtype" if modern else "torch_dtype": dtype}
    if modern:
        named.pop("torch_dtype", None)
    return named


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


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


def _slice_of(leaves: Mapping[str, Any], weight: Weight, layer: int) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        leaf = leaves[weight.path]
        array = np.asarray(leaf[layer] if weight.stacked else leaf)
        return array.T if weight.transposed else array

    return make


def _write_shards(directory: pathlib.Path, outgoing: Sequence[Outgoing], most: int) -> None:
    shards: list[list[Outgoing]] = [[]]
    filled = 0
    for tensor in outgoing:
        if shards[-1] and filled + tensor.nbytes > most:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    if len(shards) == 1:
        _write_shard(directory / files.SINGLE, shards[0])
        return
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(directory / name, shard)
        index |= {tensor.name: name for tensor in shard}
    total = sum(tensor.nbytes for tensor in outgoing)
    content = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
    _write_text(directory / files.INDEX, json.dumps(content, indent=2) + "\n")


def _write_shard(path: pathlib.Path, tensors: Sequence[Outgoing]) -> None:
    """The safetensors format: length of the header, header, data without gaps.

    By hand, since the library wants all tensors of a file in memory at once.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            stream.write(memoryview(_stored(tensor)).cast("B") if tensor.nbytes else b"")
        stream.flush()
        os.fsync(stream.fileno())


def _stored(tensor: Outgoing) -> np.ndarray:
    """The bytes of a tensor, little-endian as the format wants them."""
    made = np.asarray(tensor.make())
    if made.shape != tensor.shape:
        raise InputError(f"tensor {tensor.name}: has shape {made.shape}, expected {tensor.shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        array = np.ascontiguousarray(made.astype(tensor.dtype, copy=False))
    nans, infs = count_nonfinite(array)
    if nans or infs:
        largest = np.max(np.abs(made.astype(np.float64)), initial=0.0)
        raise InputError(
            f"tensor {tensor.name}: {nans} NaN and {infs} Inf once stored as {tensor.dtype} "
            f"(largest magnitude {largest:.3g}); choose a wider dtype or mend the values"
        )
    return array.view(np.uint8) if array.ndim else array.reshape(1).view(np.uint8)


def _write_text(path: pathlib.Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _copy_companions(source: pathlib.Path, target: pathlib.Path) -> None:
    names = {found.name for pattern in _COMPANIONS for found in source.glob(pattern)}
    for name in sorted(names):
        if not (source / name).is_file():
            continue
        copied = target / name
        shutil.copyfile(files.checked_path(source, name), copied)
        with copied.open("rb") as stream:
            os.fsync(stream.fileno())


@contextlib.contextmanager
def _replacing(target: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """A scratch directory that takes `target`'s place when the block ends well, or vanishes."""
    _check_target(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch
        # mkdtemp is private by design; the result has the mode that mkdir would have given.
        umask = os.umask(0)
        os.umask(umask)
        scratch.chmod(0o777 & ~umask)
        _sync(scratch)
        _check_target(target, overwrite)
        if target.is_dir() and any(target.iterdir()):
            old = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
            target.rename(old)
            try:
                scratch.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            scratch.rename(target)
        _sync(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_target(target: pathlib.Path, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise InputError(f"{target}: exists and is no directory")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{target}: exists and is not empty; choose another or allow to overwrite")
    if not (target / "config.json").is_file():
        raise InputError(f"{target}: holds no checkpoint (no config.json), it is not overwritten")


def _sync(directory: pathlib.Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
