"""Checkpoints of no known architecture: two shapes, as many layers as asked for."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np
from safetensors.numpy import save_file


def tensors(layers: int, width: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Gaussian matrices in float32."""
    rng = np.random.default_rng(seed)
    shapes = {"up.weight": (3 * width, width), "down.weight": (width, width)}
    return {
        f"layers.{layer}.{name}": rng.standard_normal(shape).astype(np.float32)
        for layer in range(layers)
        for name, shape in shapes.items()
    }


def save(directory: pathlib.Path, values: dict[str, np.ndarray]) -> pathlib.Path:
    """Writes a checkpoint."""
    directory.mkdir(exist_ok=True)
    save_file(values, directory / "model.safetensors", {"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": "novel"}))
    return directory


def family(root: pathlib.Path, posts: Sequence[str], layers: int, width: int) -> pathlib.Path:
    """Writes `base`, and posts that are one percent away from it."""
    base = tensors(layers, width)
    save(root / "base", base)
    for seed, post in enumerate(posts, 1):
        noise = tensors(layers, width, seed)
        save(root / post, {name: value + 0.01 * noise[name] for name, value in base.items()})
    return root
