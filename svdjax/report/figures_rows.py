"""Figures with a row per model, under the name of its group; the x axes hold the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svdjax.report import style

_ROW = 0.205  # inches


def rows(
    groups: Mapping[str, Mapping[str, str]], panels: int, *, width: float = 11
) -> tuple[Figure, list[Axes], dict[str, int]]:
    """A figure with a heading per group and a row per model.

    Args:
        groups: Heading to the models under it, their names to what the row is called.
        panels: Axes side by side, at least one.
        width: Of the figure, inches.

    Returns:
        The figure, its axes, and where each model's row lies.
    """
    texts, places = [], {}
    for heading, members in groups.items():
        texts.append(heading)
        for name, text in members.items():
            places[name] = len(texts)
            texts.append(style.label(text, 40))
    figure = Figure(figsize=(width, _ROW * len(texts) + 1.0), layout="constrained")
    axes = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
    heads = set(range(len(texts))) - set(places.values())
    axes[0].set_yticks(range(len(texts)), texts)
    for i, tick in enumerate(axes[0].get_yticklabels()):
        tick.set_fontweight("bold" if i in heads else "normal")
    axes[0].set_ylim(len(texts) - 0.4, -0.6)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="x")
        ax.set_axisbelow(True)
        for place in places.values():
            ax.axhline(place, color="#eef0f3", linewidth=0.7, zorder=0)
    return figure, axes, places


def say(ax: Axes, row: int, text: str, beside: Sequence[float] = ()) -> None:
    """Why a row has no marker, at the end of it that is farther from what is drawn there."""
    low, high = ax.get_xlim()
    middle = math.sqrt(low * high) if ax.get_xscale() == "log" else (low + high) / 2
    least = min((value for value in beside if low <= value <= high), default=high)
    x, side = (0.01, "left") if least > middle else (0.99, "right")
    ax.text(
        *(x, row, style.label(text, 44)),
        transform=ax.get_yaxis_transform(),
        ha=side,
        va="center",
        fontsize=7.5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def scale(ax: Axes, values: np.ndarray, *, percent: bool) -> bool:
    """Sets the x axis; whether it is logarithmic: where positive values span over a decade."""
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
    room = (high - low) / 16 or 1.0
    ax.set_xlim(low - (room if low else room / 4), high + room)
    if percent:
        ax.xaxis.set_major_formatter(style.percentages())
    return False
