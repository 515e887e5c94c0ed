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

MOST_PAIRS = 12
MOST_ROWS = 6
Pairs = Mapping[str, Sequence[Panel]]


def shared_names(pairs: Pairs) -> tuple[str, ...]:
    """Names of the panels, in the order in which pairs bring them, at most `MOST_PANELS`."""
    names = dict.fromkeys(panel.name for panels in pairs.values() for panel in panels)
    return tuple(names)[:MOST_PANELS]


def bands(pairs: Pairs) -> Figure:
    """Fig. 8 with every pair of the sweep."""
    names = shared_names(pairs)
    figure, axes = style.grid(len(names), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        for colour, (pair, panel) in _in_colour(pairs, name):
            draw_band(ax, panel, colour, style.label(pair))
        _finish(ax, pairs, name)
        finish_bands(ax)
    figure.supylabel("σ post / σ base, top 90 %", fontsize=8.5)
    _legend(figure, pairs)
    return figure


def nf(pairs: Pairs) -> Figure:
    """Fig. 9 by projection: NF per layer of every pair, with the level of unrelated matrices."""
    names = shared_names(pairs)
    figure, axes = style.grid(len(names))
    for ax, name in zip(axes, names, strict=True):
        levels = set()
        for colour, (_, panel) in _in_colour(pairs, name):
            values = panel.stack("nf")
            if np.isfinite(values).any():
                ax.plot(values, color=colour, marker="o", markersize=3.4)
            levels.add(panel.nf_unrelated)
        if not ax.lines:
            style.note(ax, "rank-deficient in every layer")
        for level in levels:
            ax.axhline(level, color="#111827", linestyle=(0, (4, 3)), linewidth=1)
        _finish(ax, pairs, name)
        ax.set_ylim(bottom=0)
        ax.grid(axis="y")
    figure.supylabel("NF (dashed: unrelated)", fontsize=8.5)
    _legend(figure, pairs)
    return figure


def share(pairs: Pairs) -> Figure:
    """NF as a share of the unrelated level, per layer of every pair; comparable across shapes."""
    names = shared_names(pairs)
    figure, axes = style.grid(len(names), sharey=True)
    every = [np.ones(1)]
    for ax, name in zip(axes, names, strict=True):
        for colour, (_, panel) in _in_colour(pairs, name):
            every.append(panel.stack("nf") / panel.nf_unrelated)
            ax.plot(every[-1], color=colour, marker="o", markersize=3.4)
        ax.axhline(1.0, color="#111827", linestyle=(0, (4, 3)), linewidth=1)
        _finish(ax, pairs, name)
        ax.grid(axis="y")
    style.error_scale(axes[0], np.concatenate(every), percent=True)
    figure.supylabel("NF / NF unrelated", fontsize=8.5)
    _legend(figure, pairs)
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
        known = {panel.name: panel for panel in panels}
        for j, name in enumerate(names):
            if name not in known:
                continue
            ax = figure.add_subplot(len(rows), len(names), i * len(names) + j + 1)
            image = draw_svsm(ax, known[name], norm, room=12)
            ax.set_xlabel("layer" if i == len(rows) - 1 else "")
            if i == 0:
                ax.set_title(style.label(name, 22))
            if j == 0:
                ax.set_ylabel(style.label(pair, 24))
            axes.append(ax)
    bar = figure.colorbar(image, ax=axes, extend=extend, shrink=0.8, aspect=32, pad=0.01)  # type: ignore[arg-type]
    bar.set_label("σ post / σ base")
    return figure


def _in_colour(pairs: Pairs, name: str):
    """(colour, (pair, panel)) for the pairs that have the panel."""
    for i, (pair, panels) in enumerate(pairs.items()):
        for panel in panels:
            if panel.name == name:
                yield style.COLOURS[i % len(style.COLOURS)], (pair, panel)


def _finish(ax: Axes, pairs: Pairs, name: str) -> None:
    layers = [p.layers for panels in pairs.values() for p in panels if p.name == name]
    style.layer_axis(ax, max(layers, key=len))
    ax.set_title(style.label(name))


def _legend(figure: Figure, pairs: Pairs) -> None:
    handles = [
        figure.axes[0].plot([], [], color=style.COLOURS[i % 12], marker="o", ms=3.4)[0]
        for i in range(len(pairs))
    ]
    names = [style.label(pair) for pair in pairs]
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
