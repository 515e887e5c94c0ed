"""The numbers of the constructed models as tables, at full precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from svdjax.construct.changes import Change
from svdjax.construct.controls import CONTROLS
from svdjax.construct.recipes import RECIPES, VARIANTS
from svdjax.report.table import Table

if TYPE_CHECKING:
    from svdjax.construct.results import ConstructionResults, VariantResult

MODELS = (
    *("variant", "title", "construction", "formula", "kind", "changes", "modules", "signs"),
    *("appendix_d", "table_7", "relative_change", "loss", "original_loss", "loss_difference"),
    *("kl", "agreement", "kl_per_squared_change"),
    *("sigma_ratio_mean", "sigma_ratio_min", "sigma_ratio_max", "arbitrary_signs"),
    *("matrices", "rank_deficient", "seconds", "saved"),
    *("surviving_share", "surviving_predicted"),
    *(f"{kind}_{field}" for kind in CONTROLS for field in ("change", "loss", "kl", "agreement")),
)
CHANGES = (
    *("variant", "construction", "modules", "signs", "projection"),
    *Change.__dataclass_fields__,
)
CONTROL_MODELS = (
    *("control", "name", "title", "control_of", "modules", "relative_change", "wanted_change"),
    *("loss", "original_loss", "loss_difference", "kl", "agreement", "kl_per_squared_change"),
    *("surviving_share", "matrices", "at_base", "seconds"),
)


def construction_tables(results: ConstructionResults) -> dict[str, Table]:
    """Returns the tables of a pair by name: constructions, their changes, their controls."""
    changes = (row for one in results.variants.values() for row in _rows(one))
    tables = [
        _table("constructions", MODELS, _model_rows(results)),
        _table("construction_changes", CHANGES, changes),
    ]
    if results.controls:
        tables.append(_table("construction_controls", CONTROL_MODELS, _control_rows(results)))
    return {table.name: table for table in tables}


def constructions_table(constructions: Mapping[str, ConstructionResults]) -> Table:
    """Returns the index's table: one row per pair and constructed model."""
    rows = (
        {"pair": pair, **row} for pair, one in constructions.items() for row in _model_rows(one)
    )
    return _table("constructions", ("pair", *MODELS), rows)


def cost(one: VariantResult) -> float:
    """KL per squared relative change of the weights; NaN where either says nothing."""
    return one.kl / one.change**2 if one.change > 0 and math.isfinite(one.kl) else math.nan


def arbitrary_share(one: VariantResult) -> float:
    """Share of all pairs of singular vectors whose aligned sign is arbitrary; NaN unless aligned.

    Matrices count alike, whatever their rank.
    """
    return _mean(one, lambda change: change.arbitrary)


def _table(name: str, columns: tuple[str, ...], rows: Iterable[Mapping[str, Any]]) -> Table:
    return Table(name, columns, tuple({key: row[key] for key in columns} for row in rows))


def _model_rows(results: ConstructionResults) -> Iterable[dict[str, Any]]:
    for name, one in results.variants.items():
        recipe, variant = RECIPES.get(one.construction), VARIANTS.get(name)
        changes = list(one.projections.values())
        yield {
            **_common(results, one),
            "variant": name,
            "construction": one.construction,
            "formula": recipe.formula if recipe else "",
            "kind": recipe.kind if recipe else "",
            "changes": recipe.changes if recipe else "",
            "signs": one.signs,
            "appendix_d": variant.appendix_d if variant else "",
            "table_7": variant.table_7 if variant else "",
            "sigma_ratio_mean": _mean(one, lambda change: change.sigma_ratio),
            "sigma_ratio_min": _known(min, (change.sigma_ratio_min for change in changes)),
            "sigma_ratio_max": _known(max, (change.sigma_ratio_max for change in changes)),
            "arbitrary_signs": arbitrary_share(one),
            "rank_deficient": sum(change.deficient for change in changes),
            "saved": one.saved,
            "surviving_predicted": one.surviving_predicted,
            **_beside(results, one),
        }


def _control_rows(results: ConstructionResults) -> Iterable[dict[str, Any]]:
    for name, one in results.controls.items():
        variant = results.variants.get(one.control_of)
        yield {
            **_common(results, one),
            "control": one.control,
            "name": name,
            "control_of": one.control_of,
            "wanted_change": variant.change if variant else math.nan,
            "at_base": one.at_base,
        }


def _common(results: ConstructionResults, one: VariantResult) -> dict[str, Any]:
    """What is told of constructed models and of controls."""
    return {
        "title": one.title,
        "modules": one.modules,
        "relative_change": one.change,
        "loss": one.loss,
        "original_loss": results.original_loss,
        "loss_difference": one.loss - results.original_loss,
        "kl": one.kl,
        "agreement": one.agreement,
        "kl_per_squared_change": cost(one),
        "surviving_share": one.surviving,
        "matrices": sum(change.layers for change in one.projections.values()),
        "seconds": one.seconds,
    }


def _beside(results: ConstructionResults, one: VariantResult) -> dict[str, float]:
    """Numbers of a model's controls, NaN where there are none."""
    values = {}
    for kind in CONTROLS:
        control = results.control(one, kind)
        for field in ("change", "loss", "kl", "agreement"):
            values[f"{kind}_{field}"] = getattr(control, field) if control else math.nan
    return values


def _rows(one: VariantResult) -> Iterable[dict[str, Any]]:
    common = {key: getattr(one, key) for key in ("construction", "modules", "signs")}
    for projection, change in one.projections.items():
        yield {"variant": one.name, **common, "projection": projection, **asdict(change)}


def _mean(one: VariantResult, value: Callable[[Change], float]) -> float:
    """Mean over the matrices of those projections for which it is known."""
    known = [(each.layers, value(each)) for each in one.projections.values()]
    known = [(layers, each) for layers, each in known if layers and math.isfinite(each)]
    total = sum(layers for layers, _ in known)
    return sum(layers * each for layers, each in known) / total if total else math.nan


def _known(reduce: Callable[[list[float]], float], values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return reduce(finite) if finite else math.nan
