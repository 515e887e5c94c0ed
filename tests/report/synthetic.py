"""Comparisons made from random matrices by the real kernels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from svdjax.spectra.results import Comparison, ProjectionResult
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


_LAYERS = 3


def result(name: str, module: str, base: np.ndarray, post: np.ndarray) -> ProjectionResult:
    """Analyses stacks [L, in, out], L at most 3.

    For few programs, always three layers, and wide matrices as their transposes.
    """
    more = [(0, _LAYERS - len(base)), (0, 0), (0, 0)]
    wide = base.shape[1] < base.shape[2]
    stacks = [np.pad(w, more) for w in (base, post)]
    with working_precision("svd_f64"):
        metrics = analyse_stack(*(w.swapaxes(1, 2) if wide else w for w in stacks))
    fields = PairMetrics(*(np.asarray(value)[: len(base)] for value in metrics))
    fields = fields.of_transposed() if wide else fields
    return ProjectionResult(name, module, (base.shape[1], base.shape[2]), len(base), fields)


def deepen(one: ProjectionResult, times: int) -> ProjectionResult:
    """The same layers over and over: depth without compiling another shape."""
    fields = (np.concatenate([np.asarray(value)] * times) for value in one.metrics)
    return dataclasses.replace(
        one, layers=times * one.layers, layer_numbers=(), metrics=PairMetrics(*fields)
    )


def deep(name: str, layers: int = 80, *, seed: int = 0) -> ProjectionResult:
    """A projection whose layers differ as layers do: 0.5 % in scaling, 5 % in NF and change."""
    rng = np.random.default_rng(seed)
    module, rows, columns = SHAPES["k_proj"]
    base = rng.standard_normal((1, rows, columns))
    one = result(name, module, base, 0.9 * base + 0.02 * rng.standard_normal(base.shape))
    m = deepen(one, layers).metrics
    metrics = m._replace(
        svsm=m.svsm * np.exp(0.005 * rng.standard_normal((layers, 1))),
        nf=m.nf * np.exp(0.05 * rng.standard_normal(layers)),
        norm_delta=m.norm_delta * np.exp(0.05 * rng.standard_normal(layers)),
    )
    return dataclasses.replace(one, layers=layers, layer_numbers=(), metrics=metrics)


def of_experts(
    name: str, layers: int, experts: int, *, first: int = 0, seed: int = 0
) -> ProjectionResult:
    """A projection of experts, which differ as the layers of `deep` do."""
    one = deep(name, layers * experts, seed=seed)
    metrics = (np.asarray(v).reshape(layers, experts, *np.shape(v)[1:]) for v in one.metrics)
    return dataclasses.replace(
        one,
        layers=layers,
        layer_numbers=tuple(range(first, first + layers)),
        expert_numbers=tuple(range(experts)),
        metrics=PairMetrics(*metrics),
    )


def planted(
    one: ProjectionResult, field: str, layer: int | tuple[int, int], factor: float
) -> ProjectionResult:
    """The same with a field of one layer, or one expert of a layer, multiplied."""
    values = np.array(getattr(one.metrics, field))
    values[layer] *= factor
    return dataclasses.replace(one, metrics=one.metrics._replace(**{field: values}))


def part(one: ProjectionResult, layer: int, *, name: str) -> ProjectionResult:
    """A layer as a projection of its own."""
    fields = (np.asarray(value)[layer : layer + 1] for value in one.metrics)
    return dataclasses.replace(
        one, name=name, layers=1, layer_numbers=(), metrics=PairMetrics(*fields)
    )


def comparison(results: list[ProjectionResult], *, pair: str = "pair", **fields: Any) -> Comparison:
    """A comparison of these projections; fields override its own."""
    coverage = {
        "analysed": [f"{one.name}.{i}" for one in results for i in range(one.matrices)],
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
