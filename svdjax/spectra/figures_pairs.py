"""Figures that compare the pairs of a sweep: bands (fig. 8), NF (fig. 9), SVSM (figs. 2, 7).

One panel per projection, one colour per pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svdjax.report import style
from svdjax.report.panels import MOST_PANELS, Panel
from svdjax.spectra.figures_svsm import colour_scale, draw_band, draw_svsm, finish_bands

MOST_ROWS = 6
Pairs = Mapping[str, Sequence[Panel]]


def shared_names(pairs: Pairs) -> tuple[str, ...]:
    """Names of all panels, in the order in which pairs bring them, at most `MOST_PANELS`."""
    names = dict.fromkeys(panel.name for panels in pairs.values() for panel in panels)
    return tuple(names)[:MOST_PANELS]


def bands(pairs: Pairs) -> Figure:
    """Fig. 8 with every pair of the sweep."""
    figure, grid = _grid(pairs, sharey=True)
    for ax, members in grid:
        for pair, panel, colour in members:
            draw_band(ax, panel, colour, style.label(pair))
        finish_bands(ax)
    _label(figure, pairs, "σ post / σ base, top 90 %")
    return figure


def nf(pairs: Pairs) -> Figure:
    """Fig. 9 by projection: NF per layer of every pair, with the level of unrelated matrices."""
    figure, grid = _grid(pairs)
    for ax, members in grid:
        for _, panel, colour in members:
            values = panel.by_layer("nf")
            if np.isfinite(values).any():
                ax.plot(values, color=colour, marker="o", markersize=3.4)
        if not ax.lines:
            style.note(ax, "rank-deficient in every layer")
        for level in {panel.nf_unrelated for _, panel, _ in members}:
            style.reference_line(ax, level)
        ax.set_ylim(bottom=0)
        ax.grid(axis="y")
    _label(figure, pairs, "NF (dashed: unrelated)")
    return figure


def share(pairs: Pairs) -> Figure:
    """NF as a share of the unrelated level, per layer of every pair; comparable across shapes."""
    figure, grid = _grid(pairs, sharey=True)
    shares = [np.ones(1)]
    for ax, members in grid:
        for _, panel, colour in members:
            shares.append(panel.by_layer("nf") / panel.nf_unrelated)
            ax.plot(shares[-1], color=colour, marker="o", markersize=3.4)
        style.reference_line(ax, 1.0)
        ax.grid(axis="y")
    style.error_scale(figure.axes[0], np.concatenate(shares), percent=True)
    _label(figure, pairs, "NF / NF unrelated")
    return figure


def svsm(pairs: Pairs) -> Figure:
    """SVSM of every pair (rows) and projection (columns), one colour scale (fig. 2)."""
    names = shared_names(pairs)[:7]
    rows = list(pairs.items())[:MOST_ROWS]
    size = (1.75 * len(names) + 1.3, 1.9 * len(rows) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    norm, extend = colour_scale([panel for _, panels in rows for panel in panels])
    axes, image = [], None
    for i, (pair, panels) in enumerate(rows):
        by_name = {panel.name: panel for panel in panels}
        for j, name in enumerate(names):
            if name not in by_name:
                continue
            ax = figure.add_subplot(len(rows), len(names), i * len(names) + j + 1)
            image = draw_svsm(ax, by_name[name], norm, room=12)
            ax.set_xlabel("layer" if i == len(rows) - 1 else "")
            if i == 0:
                ax.set_title(style.label(name, 22))
            if j == 0:
                ax.set_ylabel(style.label(pair, 24))
            axes.append(ax)
    bar = figure.colorbar(image, ax=axes, extend=extend, shrink=0.8, aspect=32, pad=0.01)  # type: ignore[arg-type]
    bar.set_label("σ post / σ base")
    return figure


def _grid(
    pairs: Pairs, *, sharey: bool = False
) -> tuple[Figure, list[tuple[Axes, list[tuple[str, Panel, str]]]]]:
    """A figure with axes for each projection; beside each axes (pair, panel, colour) to draw."""
    names = shared_names(pairs)
    figure, axes = style.grid(len(names), sharey=sharey)
    grid = []
    for ax, name in zip(axes, names, strict=True):
        members = [
            (pair, panel, style.COLOURS[i % len(style.COLOURS)])
            for i, (pair, panels) in enumerate(pairs.items())
            for panel in panels
            if panel.name == name
        ]
        style.layer_axis(ax, max((panel.layers for _, panel, _ in members), key=len))
        ax.set_title(style.label(name))
        grid.append((ax, members))
    return figure, grid


def _label(figure: Figure, pairs: Pairs, title: str) -> None:
    """Adds the title of the y axes and the legend of the pairs."""
    figure.supylabel(title, fontsize=8.5)
    handles = [
        figure.axes[0].plot([], [], color=style.COLOURS[i % 12], marker="o", ms=3.4)[0]
        for i in range(len(pairs))
    ]
    names = [style.label(pair) for pair in pairs]
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
