"""The tables of the constructed models as pages show them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from svdjax.construct.controls import CONTROLS
from svdjax.report.cells import (
    MOST_COLUMNS,
    Head,
    Row,
    Spec,
    TableView,
    between,
    dec,
    plain,
    share,
    sig,
    view,
)
from svdjax.report.numbers import MISSING, percent, significant
from svdjax.report.table import Table
from svdjax.spectral.constructions import ARBITRARY

_TEXT = frozenset(
    {"variant", "control", "formula", "modules", "pair", "projection", "appendix D"}
) | {"Tables 2 and 7"}


def construction_views(tables: Mapping[str, Table]) -> list[TableView]:
    """The tables of a pair's section; columns that hold nothing for this pair are left out."""
    models, changes = tables["constructions"], tables["construction_changes"]
    known = any(math.isfinite(row["kl"]) for row in models.rows)
    aligned = any(math.isfinite(row["arbitrary_signs"]) for row in models.rows)
    named = [row for row in models.rows if row["appendix_d"] or row["table_7"]]
    views = [
        view(
            models,
            "Constructed models",
            "Change: ‖new − post‖ / ‖post‖ of all edited matrices together. "
            + (_BEHAVIOUR if known else "No loss is known. "),
            [*_MODELS, *(_MEASURED if known else ())],
            text=_TEXT,
        ),
        *_beside(tables, known),
        view(
            models,
            "What was done to the weights",
            _WEIGHTS + (_SIGNS if aligned else "") + _RANKS,
            [*_DONE, *(_ARBITRARY if aligned else ()), *_DEFICIENT],
            text=_TEXT,
            whole=("formula",),
        ),
        view(
            Table(models.name, models.columns, tuple(named)),
            "Names in the paper",
            _NAMES,
            _PAPER,
            folded=True,
            text=_TEXT,
        ),
        view(changes, "By variant and projection", _PROJECTIONS, _CHANGES, folded=True, text=_TEXT),
    ]
    return [each for each in views if each.rows]


def _beside(tables: Mapping[str, Table], known: bool) -> list[TableView]:
    """Each construction beside its controls, and what is left of the change of post-training."""
    models, controls = tables["constructions"], tables.get("construction_controls")
    some = any(math.isfinite(row["surviving_share"]) for row in models.rows)
    if controls is None and not some:
        return []
    columns = [("variant", plain("title")), ("change", share("relative_change"))]
    caption = _SURVIVING if some else ""
    if controls is not None:
        caption = _CONTROLS + caption
        if known:
            columns += [("KL", sig("kl")), *((f"KL, {k}", sig(f"{k}_kl")) for k in CONTROLS)]
        else:
            columns += [(f"change, {k}", share(f"{k}_change")) for k in CONTROLS]
    if some:
        columns += [("surviving", share("surviving_share"))]
        columns += [("predicted", share("surviving_predicted"))]
    views = [view(models, "Beside their controls", caption, columns, text=_TEXT)]
    if controls is not None:
        measured = [*_MEASURED] if known else []
        views.append(
            view(
                controls,
                "The controls",
                _CONTROL,
                [*_CONTROLLED, *measured, ("surviving", share("surviving_share")), _AT_BASE],
                folded=True,
                text=_TEXT,
            )
        )
    return views


def index_views(table: Table) -> list[TableView]:
    """One row per variant and one column per pair, and all of it in one folded table."""
    pairs = list(dict.fromkeys(row["pair"] for row in table.rows))
    views = []
    if len(pairs) <= MOST_COLUMNS:
        judged = [row["pair"] for row in table.rows if math.isfinite(row["kl"])]
        judged = [pair for pair in pairs if pair in judged]
        if judged:
            views.append(_matrix(table, judged, "KL of the constructed models", _KL, sig("kl")))
        moved = share("relative_change")
        views.append(_matrix(table, pairs, "Change of the weights", _MOVED, moved))
    spec: list[Spec] = [("pair", plain("pair")), *_MODELS, *_MEASURED]
    views.append(view(table, "All constructed models", _ALL, spec, folded=True, text=_TEXT))
    return [each for each in views if each.rows]


def _matrix(
    table: Table, pairs: list[str], title: str, caption: str, show: Callable[[Row], str]
) -> TableView:
    cells = {(row["variant"], row["pair"]): show(row) for row in table.rows}
    titles = {row["variant"]: row["title"] for row in table.rows}
    rows = tuple(
        (name, *(cells.get((variant, pair), MISSING) for pair in pairs))
        for variant, name in titles.items()
    )
    heads = (Head("variant", text=True), *(Head(pair) for pair in pairs))
    return TableView(title, caption, heads, rows, 0, f"tables/{table.name}.csv", False)


def _equation(row: Row) -> str:
    return str(row["construction"]).removeprefix("eq")


def _of(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key]) or MISSING


_MODELS: list[Spec] = [
    ("variant", plain("title")),
    ("eq.", _equation),
    ("modules", plain("modules")),
    ("change", share("relative_change")),
]
_MEASURED: list[Spec] = [
    ("loss", sig("loss")),
    ("loss − original", sig("loss_difference")),
    ("KL", sig("kl")),
    ("agreement", lambda row: percent(row["agreement"] / 100)),
    ("KL / change²", sig("kl_per_squared_change")),
]
_DONE: list[Spec] = [
    ("variant", plain("title")),
    ("eq.", _equation),
    ("formula", _of("formula")),
    ("σ ratio", dec("sigma_ratio_mean")),
    ("smallest … largest", between("sigma_ratio_min", "sigma_ratio_max", significant)),
]
_ARBITRARY: list[Spec] = [("arbitrary", share("arbitrary_signs"))]
_DEFICIENT: list[Spec] = [
    ("deficient", lambda row: f"{row['rank_deficient']} of {row['matrices']}")
]
_PAPER: list[Spec] = [
    ("variant", plain("title")),
    ("eq.", _equation),
    ("appendix D", _of("appendix_d")),
    ("Tables 2 and 7", _of("table_7")),
]
_CHANGES: list[Spec] = [
    ("variant", plain("variant")),
    ("projection", plain("projection")),
    ("change", share("change")),
    ("smallest … largest", between("change_min", "change_max", percent)),
    ("norm ratio", dec("norm_ratio")),
    ("σ ratio", dec("sigma_ratio")),
    ("α′", dec("alpha", 1)),
    ("surviving", share("surviving")),
    ("predicted", share("surviving_predicted")),
]
_CONTROLLED: list[Spec] = [
    ("control", plain("title")),
    ("change", share("relative_change")),
    ("of the construction", share("wanted_change")),
]
_AT_BASE: Spec = ("at base", lambda row: f"{row['at_base']} of {row['matrices']}")

_BEHAVIOUR = (
    "Loss: next-token cross-entropy on the held-out text, nats per token. KL: from the original's "
    "next-token distributions to the model's, nats per token. Agreement: share of tokens for which "
    "both have the same likeliest prediction. KL / change²: the KL of a small change grows with "
    "its square, so that this compares changes of different size. "
)
_WEIGHTS = (
    "σ ratio: σ new / σ post over the top 90 % of the singular values, mean over the matrices, and "
    "the smallest and the largest of all. "
)
_SIGNS = (
    "Arbitrary: share of the pairs of singular vectors for which |Q1[j,j] + Q2[j,j]| is "
    f"below {ARBITRARY}, so that their aligned sign is. "
)
_RANKS = "Deficient: matrices that are numerically rank-deficient on either side."
_CONTROLS = (
    "Controls edit the same matrices. Noise: each moved exactly as far in a random direction. "
    "Interpolated: base + s (post − base), each as far from post. Reverted: base's own. "
)
_SURVIVING = (
    "Surviving: ⟨new − α base, Δ⟩ / ‖Δ‖² with Δ = post − α base, α by least squares, mean over the "
    "matrices; 1 of post, 0 of base. Predicted: what a restoration leaves of any small random Δ, "
    "1 − r/2R where it changes the complete side, r/2R where the other (r is the shorter, R the "
    "longer side of the matrix)."
)
_CONTROL = (
    "One row per control. At base: matrices of base + sΔ that are base's own, as the construction "
    "moved them farther than base lies. "
)
_NAMES = (
    "Variants are named here after the factor they change: U, the input side of h W, or V, its "
    "output side. The paper's in and out can be read in two ways. Its section 5.2 and appendix D "
    "say that eqs. 10 and 11 change the output subspaces. But the row of its Table 2, which is eq. "
    "11 on the attention modules, stands in Table 7 under in: named after the side from which the "
    "rotation is taken that restores the other."
)
_PROJECTIONS = (
    "Change of a projection's matrices together, of the one that changed least and of the one that "
    "changed most; ‖new‖ / ‖post‖; mean of σ new / σ post over the top 90 %; α′ of eq. 9; "
    "surviving share of Δ, and what is predicted of a small random one."
)
_KL = "KL from the original's next-token distributions on the pair's held-out text, nats per token."
_MOVED = "‖new − post‖ / ‖post‖ of all edited matrices together."
_ALL = "Each model as on its pair's page; a dash where there was no text."
