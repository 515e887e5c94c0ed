"""Constructed models on the page: loss and KL by model, KL against the size of the change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from svdjax.construct.controls import CONTROLS
from svdjax.construct.groups import GROUPS, group_of, grouped, measured, short
from svdjax.report.plot import Plot, dot_rows

if TYPE_CHECKING:
    from svdjax.construct.results import ConstructionResults, VariantResult


def pair_plots(results: ConstructionResults) -> list[Plot]:
    """Plots of a pair's models; of their weights alone where there is no text."""
    models = results.variants
    rows, names = _rows(models.values())
    colours = [GROUPS[group_of(models[name])].colour if name else None for name in names]

    def values(field: str) -> list[Any]:
        return [getattr(models[name], field) if name else None for name in names]

    change = {
        "title": "change of the weights, ‖new − post‖ / ‖post‖",
        "percent": True,
        "series": [{"label": "", "values": values("change"), "colours": colours}],
    }
    if not measured(results):
        title = "Change of the weights by constructed model"
        return [Plot("constructions", title, _CHANGE, "dots", [change], rows=rows)]
    loss = {
        "title": "loss, nats per token (dashed: the original)",
        "series": [{"label": "", "values": values("loss"), "colours": colours}],
        "rules": [[results.original_loss, None]],
        "start": results.original_loss,
    }
    kl = {
        "title": "KL from the original, nats per token",
        "series": [
            {"label": "", "values": values("kl"), "colours": colours},
            *(
                {
                    "label": GROUPS[kind].label,
                    "values": [_control(results, name, kind) for name in names],
                    "colour": GROUPS[kind].colour,
                    "optional": True,
                }
                for kind in CONTROLS
            ),
        ],
    }
    points = [
        {
            "x": one.change,
            "y": one.kl,
            "label": short(one),
            "group": GROUPS[key].label,
            "colour": GROUPS[key].colour,
        }
        for key, members in grouped(models.values()).items()
        for one in members
    ]
    title = "KL against the size of the change"
    return [
        Plot(
            *("constructions", "Loss and KL of the constructed models", _OUTCOMES, "dots"),
            panels=[loss, kl, change],
            rows=rows,
        ),
        Plot(
            *("construction_sizes", title, _SIZES, "points"),
            panels=[{"points": points}],
            x="change of the weights, ‖new − post‖ / ‖post‖",
            y="KL from the original, nats per token",
        ),
    ]


def pairs_plots(constructions: Mapping[str, ConstructionResults]) -> list[Plot]:
    """Change of the weights and KL of all pairs, a colour per pair."""
    models = {k: one for results in constructions.values() for k, one in results.variants.items()}
    rows, names = _rows(models.values())
    panels = []
    for field, title in (
        ("change", "change of the weights, ‖new − post‖ / ‖post‖"),
        ("kl", "KL from the original, nats per token"),
    ):
        series = [
            {
                "label": pair,
                "colour": i,
                "values": [getattr(results.variants.get(name), field, None) for name in names],
                "gone": [name not in results.variants for name in names],
            }
            for i, (pair, results) in enumerate(constructions.items())
            if field == "change" or measured(results)
        ]
        if series:
            panels.append({"title": title, "percent": field == "change", "series": series})
    title, options = "Constructed models, all pairs", {"spread": True}
    return [Plot("pairs_constructions", title, _PAIRS, "dots", panels, rows=rows, options=options)]


def _rows(models: Iterable[VariantResult]) -> tuple[list[dict[str, Any]], list[str]]:
    groups = grouped(models)
    return dot_rows(
        {GROUPS[k].label: {one.name: short(one) for one in v} for k, v in groups.items()}
    )


def _control(results: ConstructionResults, name: str, kind: str) -> float | None:
    """KL of a model's control; None where there is none that can be drawn."""
    control = results.control(results.variants[name], kind) if name else None
    return control.kl if control is not None and 0 < control.kl < math.inf else None


_OUTCOMES = (
    "One row per model. Its loss on the held-out text, with a line from the original's (dashed); "
    "KL of its next-token distributions from the original's, and in the same row that of its "
    "controls (open); how far its weights moved. Logarithmic where values span more than a decade."
)
_SIZES = (
    "Right: more of the weights changed; up: more of the behaviour. The KL of a small change grows "
    "with its square, along the thin lines, each with its KL / change²: of two models on one line "
    "neither is better than its size, and the lower line costs less for it."
)
_CHANGE = "How far the weights of each model moved; no loss is known."
_PAIRS = (
    "One row per model, one colour per pair. Left: how far its weights moved; right: KL of its "
    "next-token distributions from the original's, for the pairs that have held-out text."
)
