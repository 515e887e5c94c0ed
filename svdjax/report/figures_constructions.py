"""Figures of the constructed models: loss and KL by model, and KL against the size of the change.

Rows are models, under the name of their group; the x axes hold the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svdjax.report import style
from svdjax.report.construction_groups import GROUPS, group_of, grouped, measured, short
from svdjax.report.numbers import listed

if TYPE_CHECKING:
    from svdjax.engine.editing.results import ConstructionResults, VariantResult

_ROW = 0.205  # inches


def outcomes(results: ConstructionResults) -> Figure:
    """Loss and KL of every model; where there are none, the change of its weights."""
    models = results.variants
    known = measured(results)
    figure, axes, places = _rows(models, 2 if known else 1)
    if not known:
        _draw(axes[0], places, models, {k: one.change for k, one in models.items()}, percent=True)
        axes[0].set_xlabel("change of the weights, ‖new − post‖ / ‖post‖")
        return figure
    loss, kl = axes
    start = results.original_loss
    _draw(loss, places, models, {k: one.loss for k, one in models.items()}, start=start)
    loss.set_xlabel("loss, nats per token (dashed: the original)")
    _draw(kl, places, models, {k: one.kl for k, one in models.items()})
    kl.set_xlabel("KL from the original, nats per token")
    return figure


def pairs(constructions: Mapping[str, ConstructionResults]) -> Figure:
    """Change of the weights and, where there are texts, KL: one colour per pair."""
    models = {k: one for results in constructions.values() for k, one in results.variants.items()}
    judged = [pair for pair, one in constructions.items() if measured(one)]
    figure, axes, places = _rows(models, 2 if judged else 1)
    for field, ax in zip(("change", "kl"), axes, strict=False):
        shown = {
            pair: {k: float(getattr(one, field)) for k, one in results.variants.items()}
            for pair, results in constructions.items()
            if field == "change" or pair in judged
        }
        every = np.array([value for one in shown.values() for value in one.values()])
        log = _scale(ax, every, percent=field == "change")
        gone: dict[int, dict[str, list[str]]] = {}
        for i, pair in enumerate(constructions):
            colour, marker = style.COLOURS[i % 12], style.MARKERS[i % 12]
            for name, value in shown.get(pair, {}).items():
                if math.isfinite(value) and (value > 0 or not log):
                    y = places[name] + 0.6 * ((i + 0.5) / len(constructions) - 0.5)
                    ax.plot(value, y, color=colour, marker=marker, ms=4.5, alpha=0.85, zorder=4)
                else:
                    missing = gone.setdefault(places[name], {})
                    missing.setdefault("0" if value <= 0 else "not finite", []).append(pair)
        for row, reasons in gone.items():
            texts = [f"{reason}: {listed(names, 2)}" for reason, names in reasons.items()]
            drawn = [v for one in shown.values() for k, v in one.items() if places[k] == row]
            _say(ax, row, "; ".join(texts), beside=drawn)
    axes[0].set_xlabel("change of the weights, ‖new − post‖ / ‖post‖")
    if judged:
        axes[1].set_xlabel("KL from the original, nats per token")
    handles = [
        axes[0].plot([], [], color=style.COLOURS[i % 12], marker=style.MARKERS[i % 12], ls="")[0]
        for i in range(len(constructions))
    ]
    names = [style.label(pair) for pair in constructions]
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)))
    return figure


def _rows(
    models: Mapping[str, VariantResult], panels: int
) -> tuple[Figure, list[Axes], dict[str, int]]:
    """A figure with a row per model and a heading per group; returns where each row lies."""
    texts, places = [], {}
    for key, members in grouped(models.values()).items():
        texts.append(GROUPS[key].label)
        for one in members:
            places[one.name] = len(texts)
            texts.append(style.label(short(one), 40))
    figure = Figure(figsize=(11, _ROW * len(texts) + 1.0), layout="constrained")
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


def _draw(
    ax: Axes,
    places: Mapping[str, int],
    models: Mapping[str, VariantResult],
    values: Mapping[str, float],
    *,
    start: float = math.nan,
    percent: bool = False,
) -> None:
    """A marker per model, with a line from `start` if that is given; says where there is none."""
    log = _scale(ax, np.array([*values.values(), start]), percent=percent)
    if math.isfinite(start):
        ax.axvline(start, color="#111827", linestyle=(0, (4, 3)), linewidth=1)
    for name, value in values.items():
        group, y = GROUPS[group_of(models[name])], places[name]
        if not math.isfinite(value) or (log and value <= 0):
            _say(ax, y, "0" if math.isfinite(value) else "not finite")
            continue
        if math.isfinite(start):
            ax.plot([start, value], [y, y], color=group.colour, linewidth=1.6, alpha=0.55)
        ax.plot(value, y, color=group.colour, marker=group.marker, markersize=5.5)


def _say(ax: Axes, row: int, text: str, beside: Sequence[float] = ()) -> None:
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


def _scale(ax: Axes, values: np.ndarray, *, percent: bool) -> bool:
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
