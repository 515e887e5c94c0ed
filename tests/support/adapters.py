"""LoRA adapters of tiny checkpoints, as PEFT writes them, without PEFT."""

from __future__ import annotations

import json
import pathlib
import re
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.support import tiny

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
LINEAR = r"layers\.\d+\.(self_attn|mlp)\.\w+_proj\.weight$"


def make_adapter(
    directory: pathlib.Path,
    base: pathlib.Path,
    *,
    rank: int = 4,
    modules: str = "q_proj|down_proj",
    dtype: Any = np.float32,
    scale: float = 0.5,
    seed: int = 0,
    **config: Any,
) -> pathlib.Path:
    """Write an adapter with random factors of the linear layers that `modules` finds.

    Args:
        directory: Where to.
        base: What it is for.
        rank: r, of all layers.
        modules: A regular expression for ends of names.
        dtype: Of the factors.
        scale: The size of B A beside that of W.
        seed: Of the factors.
        **config: Fields of adapter_config.json.
    """
    tensors = {}
    ends = set()
    for name, weight in tiny.read_tensors(base).items():
        found = re.search(rf"\.({modules})\.weight$", name)
        if found and re.search(LINEAR, name):
            ends.add(found[1])
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            rows, columns = weight.shape
            size = scale * float(np.std(weight.astype(np.float32))) / np.sqrt(rank)
            stem = PREFIX + name.removesuffix(".weight")
            a, b = rng.standard_normal((rank, columns)), rng.standard_normal((rows, rank)) * size
            tensors[f"{stem}.lora_A.weight"] = a.astype(dtype)
            tensors[f"{stem}.lora_B.weight"] = b.astype(dtype)
    about = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(base),
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(ends),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "use_dora": False,
        "use_rslora": False,
        **config,
    }
    directory.mkdir(parents=True)
    save_file(tensors, directory / WEIGHTS)
    (directory / CONFIG).write_text(json.dumps(about), encoding="utf-8")
    return directory


def edit(directory: pathlib.Path, **config: Any) -> None:
    """Change fields of an adapter_config.json."""
    path = directory / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | config), encoding="utf-8")


def edit_tensors(directory: pathlib.Path, **changes: Any) -> None:
    """Add, replace or (None) remove tensors, by what follows the prefix, dots as `__`."""
    path = directory / WEIGHTS
    tensors = load_file(path)
    for name, value in changes.items():
        full = PREFIX + name.replace("__", ".")
        tensors.pop(full, None)
        if value is not None:
            tensors[full] = value
    save_file(tensors, path)


def merged_by_hand(
    base: pathlib.Path, adapter: pathlib.Path, scaling: Mapping[str, float] | float = 1.0
) -> dict[str, np.ndarray]:
    """W + scaling * B A in float64, unrounded, for every tensor of the base."""
    factors = {
        name: value.astype(np.float64) for name, value in load_file(adapter / WEIGHTS).items()
    }
    found = {}
    for name, weight in tiny.read_tensors(base).items():
        found[name] = weight.astype(np.float64)
        stem = PREFIX + name.removesuffix(".weight")
        if f"{stem}.lora_A.weight" in factors:
            kind = name.split(".")[-2]
            by = scaling.get(kind, 1.0) if isinstance(scaling, Mapping) else scaling
            product = factors[f"{stem}.lora_B.weight"] @ factors[f"{stem}.lora_A.weight"]
            found[name] = found[name] + by * product
    return found
