"""Figures of scaled singular values: layer by factor as heatmaps, all layers together as curves.

Axes: `P` projections, `R` rows of layers (the last: all together), `F` factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from svdjax.report import style
from svdjax.temperature.plots import LABELS

if TYPE_CHECKING:
    from svdjax.temperature.results import TemperatureResults


def heatmaps(results: TemperatureResults, arrays: Mapping[str, np.ndarray]) -> Figure:
    """A row of panels per measure, one per projection; layers upwards, factors across.

    Args:
        results: Results of the temperature stage.
        arrays: Arrays from `changes`, not empty.
    """
    projections, layers = results.projections, results.layers[:-1]
    height = 1.1 + min(4.0, max(1.2, 0.2 * len(layers)))
    figure = Figure(
        figsize=(2.6 * len(projections) + 1.6, height * len(arrays)), layout="constrained"
    )
    grid = figure.subplots(len(arrays), len(projections), squeeze=False)
    for axes, (name, values) in zip(grid, arrays.items(), strict=True):
        finite = np.abs(values[np.isfinite(values)])
        limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
        norm = Normalize(-limit, limit)
        for p, (ax, projection) in enumerate(zip(axes, projections, strict=True)):
            ax.imshow(
                values[p],
                cmap=style.colour_map("RdBu_r"),
                norm=norm,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
            )
            ax.set_title(style.label(projection))
            ax.set_xticks(*_every(results.factors, 6))
            ax.set_yticks(*_every(layers, 12))
            ax.set_ylabel("layer" if p == 0 else "")
        bar = figure.colorbar(axes[-1].images[0], ax=list(axes), shrink=0.9, pad=0.015)
        bar.set_label(LABELS[name])
    for ax in grid[-1]:
        ax.set_xlabel("factor")
    return figure


def curves(results: TemperatureResults, model: str) -> Figure:
    """Loss, entropy and accuracy over the factor where all layers are scaled together."""
    labels = {"loss": "loss, nats", "entropy_last": "attention entropy, nats"}
    labels |= {f"accuracy/{name}": f"{name}, right %" for name in results.benchmarks}
    panels = {
        name: (label, array if array.ndim == 3 else array.mean(axis=-1))
        for name, label in labels.items()
        if (array := results.get(model, name)) is not None
    }
    if not panels:
        figure = Figure(figsize=(5.2, 1.2), layout="constrained")
        style.note(figure.add_subplot(), "nothing was measured")
        return figure
    figure, axes = style.grid(len(panels), width=3.3, height=2.8, columns=3)
    unscaled = results.factors.index(1.0)
    for ax, (name, (label, array)) in zip(axes, panels.items(), strict=True):
        rows = array[:, -1]
        biased = results.get(model, "temperature_last") if name == "entropy_last" else None
        for p, projection in enumerate(results.projections):
            line: dict[str, Any] = {
                "color": style.COLOURS[p % len(style.COLOURS)],
                "marker": style.MARKERS[p % len(style.MARKERS)],
            }
            ax.plot(results.factors, rows[p], **line, markersize=4, label=style.label(projection))
            if biased is not None:
                means = biased[p, -1].mean(axis=-1)
                line |= {"linestyle": "", "markersize": 8, "markerfacecolor": "none"}
                ax.plot(results.factors, means, **line)
        if np.isfinite(rows).any():
            ax.axhline(rows[0, unscaled], color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.9)
            if name == "loss":
                style.error_scale(ax, rows)
        else:
            style.note(ax, "not finite")
        ax.set_xscale("log")
        ax.minorticks_off()
        ax.set_xticks(*_spaced(results.factors))
        ax.set_xlabel("factor")
        ax.set_ylabel(label)
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        if name.startswith("accuracy"):
            ax.set_ylim(-3, 103)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(6, len(names)))
    return figure


def _every(values: Sequence[float], most: int) -> tuple[range, list[str]]:
    """At most `most` evenly thinned ticks of values at 0, 1, ..."""
    step = -(-len(values) // most)
    return range(0, len(values), step), [f"{value:.3g}" for value in values[::step]]


def _spaced(factors: list[float]) -> tuple[list[float], list[str]]:
    """Ticks at factors that are far enough apart on a logarithmic axis."""
    low, high = np.log(factors[0]), np.log(factors[-1])
    ticks: list[float] = []
    for factor in factors:
        if not ticks or np.log(factor / ticks[-1]) > 0.16 * (high - low):
            ticks.append(factor)
    return ticks, [f"{tick:.3g}" for tick in ticks]
