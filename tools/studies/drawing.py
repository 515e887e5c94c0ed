"""Plots of the studies' pages: small SVG files that are the same for the same figures."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np

STYLE: Any = {
    "svg.hashsalt": "svdjax",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def panels(number: int, *, rows: int = 1, width: float = 3.2, height: float = 2.6) -> Any:
    """A figure with so many panels, in rows of as many each, and its axes as a list."""
    columns = number // rows
    with matplotlib.rc_context(STYLE):
        size = width * columns, height * rows
        figure = matplotlib.figure.Figure(figsize=size, layout="tight")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.ravel())


def draw_line(axis: Any, x: Sequence[float], intervals: Sequence[Mapping[str, float]], label: str):
    """Means joined by a line, with the band of their intervals."""
    means, lows, highs = (
        np.array([each[key] for each in intervals]) for key in ("mean", "low", "high")
    )
    (line,) = axis.plot(x, means, marker="o", markersize=3, linewidth=1.2, label=label)
    axis.fill_between(x, lows, highs, color=line.get_color(), alpha=0.15, linewidth=0)


def save(figure: Any, path: pathlib.Path) -> None:
    """Writes the figure as SVG, without the date."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None}, facecolor="white")
