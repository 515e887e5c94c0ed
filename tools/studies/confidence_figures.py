"""Figures of the study `confidence`, from its kept pieces: intervals over repetitions, the plot."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tools.studies import drawing
from tools.studies.statistics import interval

Pieces = Sequence[Mapping[str, Any]]


def figures(settings: Any, pieces: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """All figures.

    Args:
        settings: `tools.studies.confidence.Settings`.
        pieces: What `tools.studies.confidence.measure_piece` gave, by name.
    """
    found = {}
    for model in settings.models:
        own = [pieces[f"{model}-{number}"] for number in range(len(settings.draws))]
        unscaled = {
            name: _interval([piece["unscaled"][name] for piece in own])
            for name in ("entropy", "accuracy", "nll", "ece", "ece_floor")
        }
        found[model] = {
            "tokens": sum(piece["tokens"] for piece in own),
            "unscaled": unscaled,
            "modules": {module: _module(settings, own, module) for module in settings.modules},
        }
    return found


def _module(settings: Any, own: Pieces, module: str) -> dict[str, Any]:
    def intervals(point: str, *names: str) -> dict[str, Any]:
        return {name: _interval([piece[point][name] for piece in own]) for name in names}

    everywhere = [f"{module}/-1/{factor}" for factor in settings.factors]
    noise = [f"{module}/noise/{size}" for size in settings.sizes]
    layers = sorted(
        {key.split("/")[1] for key in own[0] if key.startswith(f"{module}/")} - {"-1", "noise"}
    )
    most = max(settings.layer_factors)
    # A temperature 1 / f is odd in the logarithm of f; what any disturbance does is even.
    below = max(factor for factor in settings.factors if factor < 1)
    above = min(factor for factor in settings.factors if factor > 1)
    sides = [
        [float(np.log(piece[f"{module}/-1/{factor}"]["temperature"])) for piece in own]
        for factor in (below, above)
    ]
    return {
        "factors": {
            str(factor): intervals(point, "temperature")
            for factor, point in zip(settings.factors, everywhere)
        },
        "ends": {
            end: intervals(f"{module}/-1/{factor}", "left", "nll_less", "ece", "ece_less")
            for end, factor in (("low", min(settings.factors)), ("high", max(settings.factors)))
        },
        "noise": intervals(noise[-1], "temperature", "left"),
        "layers": {
            layer: intervals(f"{module}/{layer}/{most}", "temperature")["temperature"]
            for layer in layers
        },
        "odd": _interval([(low - high) / 2 for low, high in zip(*sides)]),
        "even": _interval([(low + high) / 2 for low, high in zip(*sides)]),
        "over_noise": _interval(
            [
                float(
                    np.log(piece[everywhere[-1]]["temperature"] / piece[noise[-1]]["temperature"])
                )
                for piece in own
            ]
        ),
        "rescaled": _interval(
            [float(np.mean([piece[point]["rescaled"] for point in everywhere])) for piece in own]
        ),
    }


def _interval(values: Sequence[float]) -> dict[str, float]:
    """An interval of five significant digits, without the values, of which the page shows none."""
    found = interval(values)
    return {key: float(f"{found[key]:.4g}") for key in ("mean", "low", "high")}


def draw(found: dict[str, Any], out: pathlib.Path) -> None:
    """The matching temperature by factor, and what of the change it leaves."""
    figure, axes = drawing.panels(len(found), height=2.8)
    for axis, (model, each) in zip(axes, found.items()):
        for module, values in each["modules"].items():
            by_factor = {1.0: {"mean": 1.0, "low": 1.0, "high": 1.0}} | {
                float(factor): point["temperature"] for factor, point in values["factors"].items()
            }
            factors = sorted(by_factor)
            drawing.draw_line(axis, factors, [by_factor[f] for f in factors], module)
        axis.set_title(model, fontsize=9)
        axis.set_ylim(0.95, 2.15)
        axis.axhline(1, color="#9ca3af", linewidth=0.6)
        axis.set_xlabel("factor of the singular values")
    axes[0].set_ylabel("temperature with the same entropy")
    axes[0].legend(fontsize=8)
    drawing.save(figure, out / "confidence.svg")
