"""Scaled singular values on the page: layer by factor as heat maps, all layers as curves.

Axes: `P` projections, `R` rows of layers (the last: all together), `F` factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report.plot import Plot, spans_decades

if TYPE_CHECKING:
    from svdjax.temperature.results import TemperatureResults

LABELS = {"loss": "change of loss, nats", "entropy_last": "change of entropy, nats"}


def temperature_plots(results: TemperatureResults) -> Iterator[Plot]:
    """Plots of every model: single layers, then all together."""
    factors = [f"{factor:.3g}" for factor in results.factors]
    for model in results.models:
        of_model = "" if model == "post" else f" of {model}"
        if len(results.layers) > 1:
            for name, values in changes(results, model).items():
                title = f"Scaled singular values{of_model}, layer by layer: {LABELS[name]}"
                rows = [str(layer) for layer in results.layers[:-1]]
                yield Plot(
                    *(f"temperature_{name}_{model}", title, _MAPS, "heat"),
                    panels=[
                        {"title": each, "values": values[p], "rows": rows, "columns": factors}
                        for p, each in enumerate(results.projections)
                    ],
                    x="factor",
                    y="layer",
                    scale={"colours": "diverging", "label": LABELS[name]},
                    options={"upwards": True},
                )
        panels = list(_curves(results, model))
        if panels:
            title = f"Scaled singular values{of_model}, all layers together"
            yield Plot(f"temperature_all_{model}", title, _CURVES, "lines", panels, x="factor")


def changes(results: TemperatureResults, model: str) -> dict[str, np.ndarray]:
    """Changes by a scaled layer, by measure: [P, R - 1, F]; entropies are means over the blocks."""
    unscaled = results.factors.index(1.0)
    arrays = {}
    for name in LABELS:
        array = results.get(model, name)
        if array is not None:
            values = array if array.ndim == 3 else array.mean(axis=-1)
            arrays[name] = (values - values[:, :, unscaled : unscaled + 1])[:, :-1]
    return arrays


def _curves(results: TemperatureResults, model: str) -> Iterator[dict[str, Any]]:
    labels = {"loss": "loss, nats", "entropy_last": "attention entropy, nats"}
    labels |= {f"accuracy/{name}": f"{name}, right %" for name in results.benchmarks}
    unscaled = results.factors.index(1.0)
    for name, label in labels.items():
        array = results.get(model, name)
        if array is None:
            continue
        rows = (array if array.ndim == 3 else array.mean(axis=-1))[:, -1]
        series: list[dict[str, Any]] = [
            {"label": projection, "y": rows[p], "colour": p}
            for p, projection in enumerate(results.projections)
        ]
        biased = results.get(model, "temperature_last") if name == "entropy_last" else None
        if biased is not None:
            series += [
                {
                    "label": f"{projection}, at the temperature with biases",
                    "y": biased[p, -1].mean(axis=-1),
                    "colour": p,
                    "dash": True,
                }
                for p, projection in enumerate(results.projections)
            ]
        log = name == "loss" and spans_decades([rows])
        panel: dict[str, Any] = {
            "title": label,
            "x": list(results.factors),
            "xlog": True,
            "series": series,
            "rules": [float(rows[0, unscaled])] if np.isfinite(rows[0, unscaled]) else [],
            "log": log,
        }
        yield panel | ({"range": [-3, 103]} if name.startswith("accuracy") else {})


_MAPS = (
    "What changed from the unscaled model where one layer (row) is scaled by a factor (column): "
    "the loss, and the attention entropy of the last position, mean over blocks and heads. White: "
    "nothing; one colour scale for all panels."
)
_CURVES = (
    "One line per projection; dashed: the unscaled model. Dashed curves of the entropy, where "
    "there are any: queries and keys with their biases at that temperature."
)
