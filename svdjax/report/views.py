"""Tables as a page shows them: chosen columns, rounded numbers, a bounded number of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svdjax.report.figures_fits import FIT_NAMES
from svdjax.report.numbers import MISSING, decimal, percent, plus_minus, significant
from svdjax.report.tables import Table

MOST_ROWS = 300
MOST_COLUMNS = 8
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Head:
    """A column's heading; `text` columns are left-aligned."""

    label: str
    text: bool = False


@dataclass(frozen=True)
class TableView:
    """What the template needs of a table; cells are text, not yet escaped."""

    title: str
    caption: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[str, ...], ...]
    hidden: int
    file: str
    folded: bool


Spec = tuple[str, Callable[[Row], str]]


def pair_views(tables: Mapping[str, Table], paper: str | None) -> list[TableView]:
    """The tables of a pair's page. `paper` is the matched row of the paper, if any."""
    views = [
        _view(
            tables["table3"],
            "Scaling of the singular values (Table 3)",
            "Mean and standard deviation of σ post / σ base over all layers and the top 90 % of "
            "the singular values" + (f", beside the paper's row {paper}." if paper else "."),
            [*_TABLE3, *(_PAPER3 if paper else ())],
        ),
        _view(
            tables["table4"],
            "Scaling factors α′ (Table 4)",
            "The mean factor rounded to one decimal, as the constructions use it.",
            [*_TABLE4, *(_PAPER4 if paper else ())],
        ),
        _view(
            tables["nf"],
            "Agreement of the two rotations (NF)",
            "NF over the layers, the level of unrelated matrices of that shape, and their ratio: "
            "0 same, about 1 unrelated. Ranks: layers in which a matrix is rank-deficient, where "
            "NF is not defined and NF on the common rank stands in.",
            _NF,
        ),
        _view(
            tables["fits"],
            "Equation 8 as a fit",
            "Relative error of W_post ≈ (U_base Q)(α Σ_base)(V_base Q)ᵀ for each choice of Q, mean "
            "and range over the layers. Explained: share of the squared error of pure scaling that "
            "the rotation takes away. Chance: the share it would take away of any small random "
            "change.",
            _FITS,
            folded=True,
        ),
        _view(
            tables["layers"],
            "Every layer",
            "One row per matrix; the file has more columns.",
            _LAYERS,
            folded=True,
        ),
    ]
    return [view for view in views if view.rows]


def pairs_view(table: Table) -> TableView:
    """The index's table of pairs."""
    return _view(
        table,
        "All pairs and projections",
        "Scaling factors and NF as measured; NF / unrelated is 0 for the same matrix and about 1 "
        "for unrelated ones.",
        _PAIRS,
        folded=True,
    )


def matrix_views(table: Table) -> list[TableView]:
    """One row per pair, one column per projection: NF / unrelated, and the scaling factor."""
    names = list(dict.fromkeys(row["projection"] for row in table.rows))
    if not 0 < len(names) <= MOST_COLUMNS:
        return []
    cells = {(row["pair"], row["projection"]): row for row in table.rows}
    pairs = list(dict.fromkeys(row["pair"] for row in table.rows))
    heads = (Head("pair", text=True), *(Head(name) for name in names))

    def view(title: str, caption: str, show: Callable[[Row], str]) -> TableView:
        rows = (
            (
                pair,
                *(show(cells[pair, name]) if (pair, name) in cells else MISSING for name in names),
            )
            for pair in pairs
        )
        return TableView(title, caption, heads, tuple(rows), 0, "tables/pairs.csv", False)

    return [
        view(
            "NF / unrelated",
            "Mean NF of a projection's layers as a share of the level of unrelated matrices of its "
            "shape: 0 where left and right singular vectors turned alike, about 100 % between "
            "unrelated models.",
            _share("nf_over_unrelated"),
        ),
        view(
            "Scaling factor",
            "Mean and standard deviation of σ post / σ base over all layers and the top 90 % of "
            "the singular values.",
            _pm("alpha_mean", "alpha_std", 3),
        ),
    ]


def _plain(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _sig(key: str, digits: int = 3) -> Callable[[Row], str]:
    return lambda row: significant(row[key], digits)


def _dec(key: str, digits: int = 4) -> Callable[[Row], str]:
    return lambda row: decimal(row[key], digits)


def _share(key: str) -> Callable[[Row], str]:
    return lambda row: percent(row[key])


def _range(low: str, high: str, show: Callable[[float], str]) -> Callable[[Row], str]:
    return lambda row: f"{show(row[low])} … {show(row[high])}"


def _pm(mean: str, std: str, digits: int = 4) -> Callable[[Row], str]:
    return lambda row: plus_minus(row[mean], row[std], digits)


def _shape(row: Row) -> str:
    return f"{row['in']} × {row['out']}"


_TABLE3: list[Spec] = [
    ("projection", _plain("projection")),
    ("in × out", _shape),
    ("layers", _plain("layers")),
    ("scaling factor", _pm("alpha_mean", "alpha_std")),
    ("undefined ratios", _plain("svsm_nan")),
]
_PAPER3: list[Spec] = [
    ("paper", _pm("paper_mean", "paper_std")),
    ("difference", _dec("difference")),
]
_TABLE4: list[Spec] = [
    ("projection", _plain("projection")),
    ("mean factor", _dec("alpha_mean")),
    ("α′", _dec("alpha_prime", 1)),
]
_PAPER4: list[Spec] = [("paper's α′", _dec("paper_alpha_prime", 1))]
_NF: list[Spec] = [
    ("projection", _plain("projection")),
    ("NF", _sig("nf_mean")),
    ("smallest … largest", _range("nf_min", "nf_max", significant)),
    ("unrelated", _sig("nf_unrelated")),
    ("NF / unrelated", _share("nf_over_unrelated")),
    ("NF on common rank", _sig("nf_rank_mean")),
    ("error ≤", _sig("nf_error_max", 2)),
    ("ranks", _plain("rank_deficient_layers")),
]
_FITS: list[Spec] = [
    ("projection", _plain("projection")),
    ("Q", lambda row: FIT_NAMES[row["fit"]]),
    ("α", _pm("alpha_mean", "alpha_std")),
    ("error", _sig("error_mean")),
    ("smallest … largest", _range("error_min", "error_max", significant)),
    ("explained", _share("explained")),
    ("chance", _share("small_delta_share")),
]
_LAYERS: list[Spec] = [
    ("projection", _plain("projection")),
    ("layer", _plain("layer")),
    ("scaling factor", _pm("alpha_mean", "alpha_std")),
    ("NF", _sig("nf")),
    ("NF / unrelated", _share("nf_over_unrelated")),
    ("NF on common rank", _sig("nf_rank")),
    ("rank base", _plain("rank_base")),
    ("rank post", _plain("rank_post")),
    ("‖post − α base‖", _sig("norm_delta")),
    ("scaling-only error", _sig("fit_identity_error")),
    ("best-fit error", _sig("fit_optimal_error")),
    ("ΔQ asymmetry", _sig("residual_asymmetry")),
]
_PAIRS: list[Spec] = [
    ("pair", _plain("pair")),
    ("projection", _plain("projection")),
    ("layers", _plain("layers")),
    ("scaling factor", _pm("alpha_mean", "alpha_std")),
    ("α′", _dec("alpha_prime", 1)),
    ("NF", _sig("nf_mean")),
    ("unrelated", _sig("nf_unrelated")),
    ("NF / unrelated", _share("nf_over_unrelated")),
]
_TEXT = ("projection", "pair", "Q")


def _view(
    table: Table, title: str, caption: str, columns: Sequence[Spec], *, folded: bool = False
) -> TableView:
    rows = tuple(tuple(show(row) for _, show in columns) for row in table.rows[:MOST_ROWS])
    return TableView(
        title=title,
        caption=caption,
        heads=tuple(Head(label, label in _TEXT) for label, _ in columns),
        rows=rows,
        hidden=len(table.rows) - len(rows),
        file=f"tables/{table.name}.csv",
        folded=folded,
    )
