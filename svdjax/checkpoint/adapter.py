"""LoRA factors as a PEFT adapter directory."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from svdjax.checkpoint.config import ModelConfig
from svdjax.checkpoint.families import FAMILIES
from svdjax.checkpoint.files import one_line
from svdjax.checkpoint.replace import replacing, write_text
from svdjax.checkpoint.shards import header_of, stored_bytes
from svdjax.errors import InputError

_FILE = "adapter_model.safetensors"


def save_adapter(
    directory: str | os.PathLike[str],
    factors: Mapping[str, tuple[Any, Any]],
    config: ModelConfig,
    *,
    layers: Sequence[int] | None = None,
    base_model: str = "",
    overwrite: bool = False,
) -> pathlib.Path:
    """Write a LoRA adapter that PEFT loads on top of a model: W + A B, scaling 1.

    Args:
        directory: Where to; must not exist, be empty, or hold an adapter that `overwrite` allows
            to replace.
        factors: Path of a kernel in the pytree to (A [L, I, K], B [L, K, O]).
        config: The model's configuration.
        layers: Numbers of the layers that the rows of the factors belong to; None is all.
        base_model: What PEFT is to name as the base: a directory or hub id.
        overwrite: Replace an adapter that is there.

    Returns:
        The directory, which appears whole or not at all.

    Raises:
        InputError: A path is no linear layer of the family, shapes do not fit, or the directory is
            in use.
    """
    numbers = tuple(range(config.num_layers)) if layers is None else tuple(layers)
    tensors = _tensors(factors, config, numbers)
    rank = {a.shape[-1] for a, _ in factors.values()}
    if len(rank) != 1:
        raise InputError(f"factors of ranks {sorted(rank)}: expected one rank for all")
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model or None,
        "r": rank.pop(),
        "target_modules": sorted({path.split("/")[-2] for path in factors}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_dropout": 0.0,
        "use_rslora": False,
    }
    # PEFT multiplies by lora_alpha / r.
    about["lora_alpha"] = about["r"]
    if numbers != tuple(range(config.num_layers)):
        about |= {"layers_to_transform": list(numbers), "layers_pattern": "layers"}
    target = pathlib.Path(directory).expanduser()
    try:
        with replacing(target, overwrite, holds="adapter_config.json") as scratch:
            _write(scratch / _FILE, tensors)
            write_text(scratch / "adapter_config.json", json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({one_line(error)})") from None
    return target


def _tensors(
    factors: Mapping[str, tuple[Any, Any]], config: ModelConfig, numbers: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Tensors by PEFT's names: lora_A [K, I], lora_B [O, K]."""
    weights = {
        weight.path: weight for weight in FAMILIES[config.family].present(config) if weight.analysed
    }
    found: dict[str, np.ndarray] = {}
    for path, (a, b) in factors.items():
        if path not in weights:
            raise InputError(f"{path}: no linear layer of {config.family}; there are {weights}")
        _, rows, columns = weights[path].leaf_shape(config)
        rank = a.shape[-1]
        expected = ((len(numbers), rows, rank), (len(numbers), rank, columns))
        if (tuple(a.shape), tuple(b.shape)) != expected:
            raise InputError(
                f"{path}: factors have shapes {tuple(a.shape)} and {tuple(b.shape)}, expected "
                f"{expected[0]} and {expected[1]}"
            )
        names = weights[path].tensors(config)
        for row, number in enumerate(numbers):
            stem = f"base_model.model.{names[number].removesuffix('.weight')}"
            found[f"{stem}.lora_A.weight"] = np.asarray(a[row], np.float32).T
            found[f"{stem}.lora_B.weight"] = np.asarray(b[row], np.float32).T
    return found


def _write(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    single = np.dtype(np.float32)
    begin, _ = header_of((name, value.shape, single) for name, value in tensors.items())
    with path.open("wb") as stream:
        stream.write(begin)
        for name, value in tensors.items():
            stream.write(stored_bytes(name, value, value.shape, single))
        stream.flush()
        os.fsync(stream.fileno())
