"""Dot plots: a row per model, under the name of its group; the x axes hold the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svdjax.report import style

_ROW = 0.205  # inches


def dot_plot(
    groups: Mapping[str, Mapping[str, str]], panels: int, *, width: float = 11
) -> tuple[Figure, list[Axes], dict[str, int]]:
    """An empty dot plot with a heading per group and a row per model.

    Args:
        groups: Heading to its models, name to label.
        panels: Number of axes side by side, at least one.
        width: Width of the figure, inches.

    Returns:
        The figure, its axes, and the y of each model's row.
    """
    labels, rows = [], {}
    for heading, members in groups.items():
        labels.append(heading)
        for name, text in members.items():
            rows[name] = len(labels)
            labels.append(style.label(text, 40))
    figure = Figure(figsize=(width, _ROW * len(labels) + 1.0), layout="constrained")
    axes = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    headings = set(range(len(labels))) - set(rows.values())
    axes[0].set_yticks(range(len(labels)), labels)
    for i, tick in enumerate(axes[0].get_yticklabels()):
        tick.set_fontweight("bold" if i in headings else "normal")
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        ax.set_axisbelow(True)
        for row in rows.values():
            ax.axhline(row, color="#eef0f3", linewidth=0.7, zorder=0)
    return figure, axes, rows


def annotate_row(ax: Axes, row: int, text: str, beside: Sequence[float] = ()) -> None:
    """Writes text into a row, at its end that is farther from the values drawn there."""
    low, high = ax.get_xlim()
    middle = math.sqrt(low * high) if ax.get_xscale() == "log" else (low + high) / 2
    least = min((value for value in beside if low <= value <= high), default=high)
    x, alignment = (0.01, "left") if least > middle else (0.99, "right")
    ax.text(
        *(x, row, style.label(text, 44)),
        transform=ax.get_yaxis_transform(),
        ha=alignment,
        va="center",
        fontsize=7.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def set_x_scale(ax: Axes, values: np.ndarray, *, percent: bool) -> bool:
    """Sets scale and limits of the x axis; returns whether it is logarithmic.

    It is where positive values span more than a decade.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        ax.set_xticks([])
        ax.set_xlim(0, 1)
        return False
    positive = finite[finite > 0]
    if positive.size and positive.max() > 10 * positive.min():
        style.log_axis(ax, positive, percent=percent, axis="x")
        ax.set_xlim(positive.min() / 1.7, positive.max() * 1.7)
        return True
    # From 0, so that a small difference looks small.
    low, high = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
    margin = (high - low) / 16 or 1.0
    ax.set_xlim(low - (margin if low else margin / 4), high + margin)
    if percent:
        ax.xaxis.set_major_formatter(style.percentages())
    return False
