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

from svdjax.construct.controls import CONTROLS
from svdjax.construct.groups import GROUPS, group_of, grouped, measured, short
from svdjax.report import dot_plot, style
from svdjax.report.numbers import listed

if TYPE_CHECKING:
    from svdjax.construct.results import ConstructionResults, VariantResult


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
    beside = _controls(results)
    drawn = [value for values in beside.values() for value in values.values()]
    _draw(kl, places, models, {k: one.kl for k, one in models.items()}, more=drawn)
    kl.set_xlabel("KL from the original, nats per token")
    for kind, values in beside.items():
        group = GROUPS[kind]
        kl.plot(
            list(values.values()),
            [places[name] for name in values],
            **{"color": group.colour, "marker": group.marker, "markersize": 4.5},
            **{"linestyle": "", "alpha": 0.85, "label": group.label},
        )
    if beside:
        handles, labels = kl.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
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
        log = dot_plot.set_x_scale(ax, every, percent=field == "change")
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
            dot_plot.annotate_row(ax, row, "; ".join(texts), beside=drawn)
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
    groups = grouped(models.values())
    named = {GROUPS[k].label: {one.name: short(one) for one in v} for k, v in groups.items()}
    return dot_plot.dot_plot(named, panels)


def _controls(results: ConstructionResults) -> dict[str, dict[str, float]]:
    """KL of the controls by kind, then by the model that they control; what can be drawn of it."""
    values: dict[str, dict[str, float]] = {}
    for name, one in results.variants.items():
        for kind in CONTROLS:
            control = results.control(one, kind)
            if control is not None and 0 < control.kl < math.inf:
                values.setdefault(kind, {})[name] = control.kl
    return values


def _draw(
    ax: Axes,
    places: Mapping[str, int],
    models: Mapping[str, VariantResult],
    values: Mapping[str, float],
    *,
    start: float = math.nan,
    percent: bool = False,
    more: Sequence[float] = (),
) -> None:
    """A marker per model, with a line from `start` if that is given; says where there is none.

    `more` are values that the axis has room for too.
    """
    log = dot_plot.set_x_scale(ax, np.array([*values.values(), start, *more]), percent=percent)
    if math.isfinite(start):
        ax.axvline(start, color="#111827", linestyle=(0, (4, 3)), linewidth=1)
    for name, value in values.items():
        group, y = GROUPS[group_of(models[name])], places[name]
        if not math.isfinite(value) or (log and value <= 0):
            dot_plot.annotate_row(ax, y, "0" if math.isfinite(value) else "not finite")
            continue
        if math.isfinite(start):
            ax.plot([start, value], [y, y], color=group.colour, linewidth=1.6, alpha=0.55)
        ax.plot(value, y, color=group.colour, marker=group.marker, markersize=5.5)
