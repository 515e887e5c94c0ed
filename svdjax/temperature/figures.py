"""Figures of scaled singular values: layer by factor as heatmaps, all layers together as curves.

Axes: `R` rows of layers (the last: all together), `F` factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from svdjax.report import style

if TYPE_CHECKING:
    from svdjax.temperature.results import TemperatureResults

_LABELS = {"loss": "change of loss, nats", "entropy_last": "change of entropy, nats"}


def changes(results: TemperatureResults, model: str) -> dict[str, np.ndarray]:
    """What a scaled layer changed, by measure: [P, R - 1, F]; entropies as means of the blocks."""
    one = results.factors.index(1.0)
    found = {}
    for name in _LABELS:
        array = results.get(model, name)
        if array is not None:
            values = array if array.ndim == 3 else array.mean(axis=-1)
            found[name] = (values - values[:, :, one : one + 1])[:, :-1]
    return found


def heatmaps(results: TemperatureResults, drawn: Mapping[str, np.ndarray]) -> Figure:
    """A row of panels per measure, one per projection; layers upwards, factors across.

    Args:
        results: Of the temperature stage.
        drawn: From `changes`, not empty.
    """
    projections, layers = results.projections, results.layers[:-1]
    height = 1.1 + min(4.0, max(1.2, 0.2 * len(layers)))
    figure = Figure(
        figsize=(2.6 * len(projections) + 1.6, height * len(drawn)), layout="constrained"
    )
    grid = figure.subplots(len(drawn), len(projections), squeeze=False)
    for axes, (name, values) in zip(grid, drawn.items(), strict=True):
        finite = np.abs(values[np.isfinite(values)])
        most = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
        norm = Normalize(-most, most)
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
            _factor_ticks(ax, results.factors)
            step = -(-len(layers) // 12)
            ax.set_yticks(range(0, len(layers), step), [str(one) for one in layers[::step]])
            ax.set_ylabel("layer" if p == 0 else "")
        bar = figure.colorbar(axes[-1].images[0], ax=list(axes), shrink=0.9, pad=0.015)
        bar.set_label(_LABELS[name])
    for ax in grid[-1]:
        ax.set_xlabel("factor")
    return figure


def curves(results: TemperatureResults, model: str) -> Figure:
    """Loss, entropy and accuracy over the factor where all layers are scaled together."""
    named = {"loss": "loss, nats", "entropy_last": "attention entropy, nats"}
    named |= {f"accuracy/{name}": f"{name}, right %" for name in results.benchmarks}
    panels = {k: label for k, label in named.items() if results.get(model, k) is not None}
    if not panels:
        figure = Figure(figsize=(5.2, 1.2), layout="constrained")
        style.note(figure.add_subplot(), "nothing was measured")
        return figure
    figure, axes = style.grid(len(panels), width=3.3, height=2.8, columns=3)
    one = results.factors.index(1.0)
    for ax, (name, label) in zip(axes, panels.items(), strict=True):
        array = results.get(model, name)
        assert array is not None
        rows = array[:, -1] if array.ndim == 3 else array[:, -1].mean(axis=-1)
        hot = results.get(model, "temperature_last") if name == "entropy_last" else None
        for p, projection in enumerate(results.projections):
            colour, marker = _look(p)
            ax.plot(
                results.factors,
                rows[p],
                color=colour,
                marker=marker,
                markersize=4,
                label=style.label(projection),
            )
            if hot is not None:
                ax.plot(
                    results.factors,
                    hot[p, -1].mean(axis=-1),
                    color=colour,
                    marker=marker,
                    markersize=8,
                    markerfacecolor="none",
                    linestyle="",
                )
        if np.isfinite(rows).any():
            ax.axhline(rows[0, one], color=style.MUTED, linestyle=(0, (4, 3)), linewidth=0.9)
            if name == "loss":
                style.error_scale(ax, rows)
        else:
            style.note(ax, "not finite")
        ax.set_xscale("log")
        ax.minorticks_off()
        ax.set_xticks(*_thinned(results.factors))
        ax.set_xlabel("factor")
        ax.set_ylabel(label)
        ax.grid(axis="y")
        ax.set_axisbelow(True)
        if name.startswith("accuracy"):
            ax.set_ylim(-3, 103)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
    return figure


def _look(p: int) -> tuple[str, str]:
    return style.COLOURS[p % len(style.COLOURS)], style.MARKERS[p % len(style.MARKERS)]


def _factor_ticks(ax: Axes, factors: list[float]) -> None:
    step = -(-len(factors) // 6)
    ax.set_xticks(range(0, len(factors), step), [f"{one:.3g}" for one in factors[::step]])


def _thinned(factors: list[float]) -> tuple[list[float], list[str]]:
    """Ticks at factors that are far enough apart on a logarithmic axis."""
    low, high = np.log(factors[0]), np.log(factors[-1])
    kept: list[float] = []
    for factor in factors:
        if not kept or np.log(factor / kept[-1]) > 0.16 * (high - low):
            kept.append(factor)
    return kept, [f"{one:.3g}" for one in kept]
