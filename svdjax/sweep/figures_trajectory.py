"""Curves over the steps of a training run: NF, change and scaling, from the start and by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from svdjax.report import style
from svdjax.sweep.trajectory_page import QUANTITIES, Curves


def draw(curves: Curves) -> Figure:
    """A row of axes per quantity, a column per kind of pair."""
    figure = Figure(figsize=(9.2, 7.4), layout="constrained")
    axes = figure.subplots(len(QUANTITIES), len(curves.kinds), squeeze=False, sharex=True)
    for row, (key, label) in enumerate(QUANTITIES):
        for column, kind in enumerate(curves.kinds):
            ax = axes[row][column]
            _draw(ax, curves.steps, curves.lines[key, kind])
            if key == "alpha":
                ax.ticklabel_format(axis="y", useOffset=False)
            else:
                ax.set_ylim(bottom=0)
                ax.yaxis.set_major_formatter(style.percentages())
            if key == "alpha" or (key == "nf" and ax.get_ylim()[1] > 0.8):
                style.reference_line(ax, 1.0)
            if row == 0:
                ax.set_title(kind)
            if column == 0:
                ax.set_ylabel(label)
    for ax in axes[-1]:
        ax.set_xlabel("step")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=style.columns(names))
    return figure


def _draw(ax: Axes, steps: Sequence[int], lines: Mapping[str, Sequence[float]]) -> None:
    for i, (name, values) in enumerate(lines.items()):
        ax.plot(
            steps,
            np.asarray(values, np.float64),
            color=style.COLOURS[i % len(style.COLOURS)],
            marker=style.MARKERS[i % len(style.MARKERS)],
            markersize=3.4 if len(steps) <= 40 else 0,
            label=style.label(name),
        )
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    # Not 1e6 at the end of the axis: steps are counted.
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    ax.grid(axis="y")
