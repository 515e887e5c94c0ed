"""KL of the constructed models against the size of the change, both logarithmic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svdjax.construct.groups import GROUPS, group_of, grouped, short
from svdjax.report import style
from svdjax.report.numbers import listed

if TYPE_CHECKING:
    from svdjax.construct.results import ConstructionResults, VariantResult

_SIZE = (9.5, 5.8)
_PLACE = (0.075, 0.18, 0.87, 0.76)
_FONT = 7.5
_CHARACTER, _LINE = 0.054, 0.13  # inches that a label's letters take
_NEAR = 0.075  # inches around the middle of a point
_TRIED = [
    (round(step * math.cos(turn), 3), round(step * math.sin(turn), 3))
    for step in (0.1, 0.22, 0.36, 0.52, 0.7, 0.9)
    for turn in np.radians([0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240])
]


def sizes(results: ConstructionResults) -> Figure:
    """One labelled point per model; on a thin line all cost the same for their squared size."""
    figure = Figure(figsize=_SIZE)
    ax = figure.add_axes(_PLACE)
    ax.set_xlabel("change of the weights, ‖new − post‖ / ‖post‖")
    ax.set_ylabel("KL from the original, nats per token")
    models = results.variants.values()
    points = [one for one in models if 0 < one.change < math.inf and 0 < one.kl < math.inf]
    if not points:
        ax.set(xticks=[], yticks=[])
        style.note(ax, "no model has a finite KL and a change above 0")
        return figure
    x, y = np.array([one.change for one in points]), np.array([one.kl for one in points])
    style.log_axis(ax, x, percent=True, axis="x")
    style.log_axis(ax, y)
    ax.set_xlim(x.min() / 1.8, x.max() * 1.8)
    ax.set_ylim(y.min() / 3, y.max() * 3)
    _squares(ax)
    for key, members in grouped(points).items():
        group = GROUPS[key]
        xs, ys = [one.change for one in members], [one.kl for one in members]
        ax.plot(xs, ys, group.marker, color=group.colour, markersize=6.5, label=group.label)
    _labels(ax, x, y, points)
    gone = [short(one) for one in models if one not in points]
    if gone:
        text = style.label(f"not drawn, as KL is 0 or not finite: {listed(gone, 4)}", 110)
        ax.text(0.01, 0.985, text, transform=ax.transAxes, va="top", fontsize=_FONT)
    figure.legend(loc="lower center", ncols=3)
    return figure


def _squares(ax: Axes) -> None:
    """Lines of equal KL / change², the number of each at its end."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    first = math.ceil(math.log10(bottom / right**2) + 0.1)
    last = math.floor(math.log10(top / left**2) - 0.1)
    grey = "#c3c9d2"
    for power in range(first, last + 1, max(1, -(-(last - first) // 6))):
        factor = 10.0**power
        x = np.geomspace(left, right, 2)
        ax.plot(x, factor * x**2, color=grey, linewidth=0.8, zorder=0, scalex=False, scaley=False)
        place = {"color": style.MUTED, "fontsize": _FONT, "clip_on": False}
        if factor * right**2 <= top:
            ax.text(right, factor * right**2, f" {factor:g}", va="center", **place)
        else:
            ax.text(math.sqrt(top / factor), top, f"{factor:g}", ha="center", va="bottom", **place)
    ax.set_title(
        "thin lines: KL / change² =", loc="left", fontsize=_FONT, color=style.MUTED, pad=14
    )


def _labels(ax: Axes, x: np.ndarray, y: np.ndarray, points: Sequence[VariantResult]) -> None:
    """Writes each label at the nearest place where it covers no point and no other label."""
    width, height = _SIZE[0] * _PLACE[2], _SIZE[1] * _PLACE[3]
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    across = (np.log(x / left) / math.log(right / left) * width).tolist()
    up = (np.log(y / bottom) / math.log(top / bottom) * height).tolist()
    taken = [_box(a, b, _NEAR, _NEAR) for a, b in zip(across, up)]
    for i in sorted(range(len(points)), key=lambda i: -across[i]):
        text = style.label(short(points[i]), 30)
        half = (_CHARACTER * len(text) / 2, _LINE / 2)
        middle = (across[i] + half[0] + 0.1, up[i])
        line = None
        for dx, dy in _TRIED:
            # The label's nearest edge is that far away, not its middle.
            at = (across[i] + dx + half[0] * _sign(dx), up[i] + dy + half[1] * _sign(dy))
            box = _box(*at, *half)
            inside = box[0] > 0 and box[1] > 0 and box[2] < width and box[3] < height
            if inside and not any(_touch(box, other) for other in taken):
                middle = at
                if math.hypot(dx, dy) > 0.15:
                    line = {"arrowstyle": "-", "color": style.MUTED, "linewidth": 0.5}
                break
        taken.append(_box(*middle, *half))
        ax.annotate(
            text,
            (x[i], y[i]),
            xytext=(72 * (middle[0] - across[i]), 72 * (middle[1] - up[i])),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=_FONT,
            color=GROUPS[group_of(points[i])].colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            arrowprops=line,
        )


def _box(x: float, y: float, across: float, up: float) -> tuple[float, float, float, float]:
    return x - across, y - up, x + across, y + up


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _touch(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
