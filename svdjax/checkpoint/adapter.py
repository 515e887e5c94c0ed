"""LoRA factors as a PEFT adapter directory.

Axes: `L` layers that have factors, `I` in, `O` out, `K` rank.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from svdjax.checkpoint import files
from svdjax.checkpoint.config import ModelConfig
from svdjax.checkpoint.families import FAMILIES
from svdjax.checkpoint.lora import CONFIG, WEIGHTS
from svdjax.checkpoint.replace import staged_directory, write_text
from svdjax.checkpoint.shards import LazyTensor, write_shards
from svdjax.errors import InputError


def save_adapter(
    directory: str | os.PathLike[str],
    factors: Mapping[str, tuple[Any, Any]],
    config: ModelConfig,
    *,
    layers: Sequence[int] | None = None,
    base_model: str | os.PathLike[str] = "",
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes a LoRA adapter that PEFT loads on top of a model: W + A B, scaling 1, float32.

    PEFT stores lora_A as A^T [K, I] and lora_B as B^T [O, K], and adds lora_alpha / r times their
    product; lora_alpha is r. What `svdjax.construct.low_rank.lora_split` returns is written
    by ``save_adapter(directory, lora.factors, config, layers=lora.layers)``.

    Args:
        directory: Directory to write to; must not exist, be empty, or hold an adapter that
            `overwrite` allows to replace.
        factors: (A [L, I, K], B [L, K, O]) by path of the kernel in the pytree.
        config: Configuration of the model.
        layers: Numbers of the layers that the rows of the factors belong to; None is all.
        base_model: Directory or hub id that the adapter names as its base.
        overwrite: Whether an adapter that is there is replaced.

    Returns:
        The directory, which appears whole or not at all.

    Raises:
        InputError: A path is no linear layer of the family, shapes, ranks or layers do not fit, a
            value is not finite, or the directory is in use.
    """
    numbers = tuple(range(config.num_layers)) if layers is None else tuple(map(int, layers))
    if len(set(numbers)) < len(numbers) or not all(0 <= n < config.num_layers for n in numbers):
        raise InputError(
            f"layers {list(numbers)}: expected different numbers from 0 to {config.num_layers - 1}"
        )
    outgoing = _outgoing(factors, config, numbers)
    ranks = {path: int(a.shape[2]) for path, (a, _) in factors.items()}
    if len(set(ranks.values())) != 1:
        raise InputError(f"factors: expected some, all of one rank, found {ranks or 'none'}")
    rank = next(iter(ranks.values()))
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": os.fspath(base_model) or None,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": sorted({path.split("/")[-2] for path in factors}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
    }
    if set(numbers) != set(range(config.num_layers)):
        settings |= {"layers_to_transform": sorted(numbers), "layers_pattern": "layers"}
    target = pathlib.Path(directory).expanduser()
    with staged_directory(target, overwrite, holds=CONFIG) as scratch:
        write_shards(scratch, outgoing, sum(tensor.nbytes for tensor in outgoing))
        (scratch / files.SINGLE).rename(scratch / WEIGHTS)
        write_text(scratch / CONFIG, json.dumps(settings, indent=2) + "\n")
    return target


def _outgoing(
    factors: Mapping[str, tuple[Any, Any]], config: ModelConfig, numbers: tuple[int, ...]
) -> list[LazyTensor]:
    """Tensors by PEFT's names, in the order of the factors and, within one, of the layers."""
    weights = {
        weight.path: weight
        for weight in FAMILIES[config.family].present(config)
        if weight.analysed and not weight.of_experts
    }
    tensors: list[LazyTensor] = []
    for path, (a, b) in factors.items():
        if path not in weights:
            raise InputError(
                f"{path}: no linear layer of {config.family}; there are {', '.join(weights)}"
            )
        _, rows, columns = weights[path].leaf_shape(config)
        rank = a.shape[-1]
        expected = ([len(numbers), rows, rank], [len(numbers), rank, columns])
        if (list(a.shape), list(b.shape)) != expected or rank == 0:
            raise InputError(
                f"{path}: factors have shapes {list(a.shape)} and {list(b.shape)}, expected "
                f"[{len(numbers)}, {rows}, rank] and [{len(numbers)}, rank, {columns}]"
            )
        names = weights[path].tensors(config)
        for row, number in enumerate(numbers):
            stem = f"base_model.model.{names[number].removesuffix('.weight')}"
            for letter, stack in (("A", a), ("B", b)):
                shape = (int(stack.shape[2]), int(stack.shape[1]))
                name = f"{stem}.lora_{letter}.weight"
                make = _transposed(stack, row)
                tensors.append(LazyTensor(name, shape, np.dtype(np.float32), make))
    return tensors


def _transposed(stack: Any, row: int) -> Callable[[], np.ndarray]:
    return lambda: np.asarray(stack[row]).T
