"""Comparisons made from random matrices by the real kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from svdjax.engine import Comparison, ProjectionResult
from svdjax.spectral import PairMetrics, analyse_stack, working_precision

SHAPES = {
    "q_proj": ("self_attn", 16, 16),
    "k_proj": ("self_attn", 16, 8),
    "v_proj": ("self_attn", 16, 8),
    "o_proj": ("self_attn", 16, 16),
    "gate_proj": ("mlp", 16, 40),
    "up_proj": ("mlp", 16, 40),
    "down_proj": ("mlp", 40, 16),
}


def result(name: str, module: str, base: np.ndarray, post: np.ndarray) -> ProjectionResult:
    """Analyses stacks [L, in, out]."""
    with working_precision("svd_f64"):
        metrics = analyse_stack(base, post)
    fields = PairMetrics(*(np.asarray(value) for value in metrics))
    return ProjectionResult(name, module, (base.shape[1], base.shape[2]), len(base), fields)


def deepen(one: ProjectionResult, times: int) -> ProjectionResult:
    """The same layers over and over: depth without compiling another shape."""
    fields = (np.concatenate([np.asarray(value)] * times) for value in one.metrics)
    return dataclasses.replace(one, layers=times * one.layers, metrics=PairMetrics(*fields))


def comparison(results: list[ProjectionResult], *, pair: str = "pair", **fields: Any) -> Comparison:
    """A comparison of these projections; fields override its own."""
    coverage = {
        "analysed": [f"{one.name}.{i}" for one in results for i in range(one.layers)],
        "left_out": {"model.embed_tokens.weight": "embedding", "model.norm.weight": "1-D"},
        "notes": [],
    }
    values: dict = {
        "pair": pair,
        "base": "models/base",
        "post": "models/post",
        "family": "qwen2",
        "coverage": coverage,
        "projections": {one.name: one for one in results},
        "options": {"factorisation": "svd_f64", "corner": 25},
    }
    return Comparison(**(values | fields))


def family(
    layers: int = 3,
    *,
    alpha: float = 0.9,
    change: float = 0.02,
    seed: int = 0,
    scale: int = 1,
    shapes: Mapping[str, tuple[str, int, int]] = SHAPES,
    **fields: Any,
) -> Comparison:
    """A model and alpha times it plus noise; ``change`` is relative to the entries."""
    rng = np.random.default_rng(seed)
    results = []
    for name, (module, rows, columns) in shapes.items():
        base = rng.standard_normal((layers, scale * rows, scale * columns))
        noise = rng.standard_normal(base.shape)
        results.append(result(name, module, base, alpha * base + change * noise))
    return comparison(results, **fields)
