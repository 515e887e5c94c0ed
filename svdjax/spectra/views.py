"""Views of a comparison's tables: chosen columns, rounded numbers, a bounded number of rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping

from svdjax.report.cells import (
    MOST_COLUMNS,
    Head,
    Row,
    Spec,
    TableView,
    between,
    dec,
    plain,
    pm,
    share,
    sig,
    view,
)
from svdjax.report.numbers import MISSING, decimal, significant
from svdjax.report.table import Table
from svdjax.spectra.tables import FIT_NAMES

_PAIR = Head("pair", text=True)
MOST_WITHOUT_CODE, MOST_EXPERTS = 3000, 24


def pair_views(tables: Mapping[str, Table], paper: str | None) -> list[TableView]:
    """Views of a pair's page; empty ones are left out.

    Args:
        tables: Tables as `svdjax.spectra.tables.pair_tables` returns them.
        paper: Name of the matched column of the paper's tables, if any.
    """
    table3, table4, nf = (tables[key] for key in ("table3", "table4", "nf"))
    limited = any(row["storage_limited_layers"] for row in nf.rows)
    views = [
        *([experts_view(tables["experts"])] if "experts" in tables else []),
        view(
            table3,
            "Scaling of the singular values (Table 3)",
            "Mean and standard deviation of σ post / σ base over all layers and the top 90 % of "
            "the singular values" + (f", beside the paper's row {paper}." if paper else "."),
            [*_TABLE3, *(_PAPER3 if paper else ()), *(_STORED3 if limited else ())],
        ),
        view(
            table4,
            "Scaling factors α′ (Table 4)",
            "The mean factor rounded to one decimal, as the constructions use it.",
            [*_TABLE4, *(_PAPER4 if paper else ())],
        ),
        view(
            nf,
            "Agreement of the two rotations (NF)",
            "NF over the layers, the level of unrelated matrices of that shape, and their ratio: "
            "0 same, about 1 unrelated. Ranks: layers in which a matrix is rank-deficient, where "
            "NF is not defined and NF on the common rank stands in."
            + (_STORED_CAPTION if limited else ""),
            [*_NF, *(_STORED_NF if limited else ())],
        ),
        view(
            tables["corotation"],
            "Co-rotation share",
            "c, over the pairs of singular directions of all layers: the share of the change that "
            "turns both sides alike; 1 for one rotation of both, 0 for rotations against each "
            "other, ½ where the two have no relation beyond the magnitudes of the change. z and p "
            "(two-sided) against the same magnitudes with random signs, p corrected for the number "
            "of projections (Holm). Outside: share of the squared change outside base's singular "
            "subspaces, which c does not see.",
            _COROTATION,
        ),
        view(
            tables["fits"],
            "Equation 8 as a fit",
            "Relative error of W_post ≈ (U_base Q)(α Σ_base)(V_base Q)ᵀ for each choice of Q, mean "
            "and range over the layers. Explained: share of the squared error of pure scaling that "
            "the rotation takes away. Chance: the share it would take away of any small random "
            "change. –: not asked for (config.measure), or not defined.",
            _FITS,
            folded=True,
        ),
    ]
    return [view for view in views if view.rows]


def experts_view(table: Table) -> TableView:
    """View of the experts that changed most."""
    return view(
        table,
        "Experts that changed most",
        "Change: ‖post − α base‖ / ‖post‖ of all matrices of an expert together; most in: the "
        "projection that changed most. α, NF and c are means of its matrices, c weighted by their "
        "squared change. The file has all experts in this order.",
        _EXPERTS,
        most=MOST_EXPERTS,
    )


def every_layer(table: Table) -> TableView:
    """View of every matrix, for a browser that runs no code; the page's own table has more."""
    limited = any(row["storage_limited"] for row in table.rows)
    return view(
        table,
        "Every layer",
        "One row per matrix; the file has more columns. Stands out in: the metrics in which a "
        "matrix differs from the neighbouring layers by more than these do among themselves. "
        "Clustered: how many singular values of base and of post equal another one within "
        "their error, so that their vectors are arbitrary.",
        [
            *_LAYERS[:2],
            *([("expert", plain("expert"))] if "expert" in table.columns else ()),
            *_LAYERS[2:],
            *(_STORED_LAYERS if limited else ()),
        ],
        most=MOST_WITHOUT_CODE,
    )


def pairs_view(table: Table) -> TableView:
    """View of the index's table of pairs."""
    return view(
        table,
        "All pairs and projections",
        "Scaling factors and NF as measured; NF / unrelated is 0 for the same matrix and about 1 "
        "for unrelated ones.",
        _PAIRS,
        folded=True,
    )


def matrix_views(table: Table) -> list[TableView]:
    """Views with a row per pair and a column per projection: NF / unrelated, scaling factor."""
    if not fits_matrix(table):
        return []
    return [
        pairs_matrix(
            table,
            "NF / unrelated",
            "Mean NF of a projection's layers as a share of the level of unrelated matrices of its "
            "shape: 0 where left and right singular vectors turned alike, about 100 % between "
            "unrelated models.",
            share("nf_over_unrelated"),
        ),
        pairs_matrix(
            table,
            "Scaling factor",
            "Mean and standard deviation of σ post / σ base over all layers and the top 90 % of "
            "the singular values.",
            pm("alpha_mean", "alpha_std", 3),
        ),
    ]


def fits_matrix(table: Table) -> bool:
    """Whether the table has projections, and few enough for `pairs_matrix`."""
    return 0 < len({row["projection"] for row in table.rows}) <= MOST_COLUMNS


def pairs_matrix(
    table: Table,
    title: str,
    caption: str,
    show: Callable[[Row], str],
    *,
    names: Collection[str] = (),
    head: Head = _PAIR,
    folded: bool = False,
    most: int | None = None,
) -> TableView:
    """View with a row per pair and a column per projection; a dash where a pair lacks one.

    Args:
        table: Table whose rows have ``pair`` and ``projection``.
        title: Title above the view.
        caption: How to read it.
        show: Format of a cell.
        names: Projections; by default those of the table.
        head: Heading of the first column.
        folded: Whether the view is shown only on request.
        most: Number of pairs that are shown; None for all.
    """
    names = names or dict.fromkeys(row["projection"] for row in table.rows)
    cells: dict[str, dict[str, str]] = {}
    for row in table.rows:
        cells.setdefault(row["pair"], {})[row["projection"]] = show(row)
    rows = tuple((pair, *(line.get(p, MISSING) for p in names)) for pair, line in cells.items())
    return TableView(
        title=title,
        caption=caption,
        heads=(head, *map(Head, names)),
        rows=rows[:most],
        hidden=len(rows) - len(rows[:most]),
        file=f"tables/{table.name}.csv",
        folded=folded,
    )


def _p_value(row: Row) -> str:
    p = row["corotation_p"]
    return "< 1e-300" if p < 1e-300 else significant(p, 2)


def _shape(row: Row) -> str:
    return f"{row['in']} × {row['out']}"


_STORED_CAPTION = (
    " Carried by storage: NF on the directions that stand out of the rounding of the stored "
    "numbers, what rounding alone makes of it, and the layers where others do not."
)
_TABLE3: list[Spec] = [
    ("projection", plain("projection")),
    ("in × out", _shape),
    ("layers", plain("layers")),
    ("scaling factor", pm("alpha_mean", "alpha_std")),
    ("undefined ratios", plain("svsm_nan")),
]
_PAPER3: list[Spec] = [("paper", pm("paper_mean", "paper_std")), ("difference", dec("difference"))]
_TABLE4: list[Spec] = [
    ("projection", plain("projection")),
    ("mean factor", dec("alpha_mean")),
    ("α′", dec("alpha_prime", 1)),
]
_PAPER4: list[Spec] = [("paper's α′", dec("paper_alpha_prime", 1))]
_NF: list[Spec] = [
    ("projection", plain("projection")),
    ("NF", sig("nf_mean")),
    ("smallest … largest", between("nf_min", "nf_max", significant)),
    ("unrelated", sig("nf_unrelated")),
    ("NF / unrelated", share("nf_over_unrelated")),
    ("NF on common rank", sig("nf_rank_mean")),
    ("error ≤", sig("nf_error_max", 2)),
    ("ranks", plain("rank_deficient_layers")),
]
_COROTATION: list[Spec] = [
    ("projection", plain("projection")),
    ("c", dec("corotation_pooled", 3)),
    (
        "layers, smallest … largest",
        between("corotation_min", "corotation_max", functools.partial(decimal, digits=3)),
    ),
    ("z", dec("corotation_z", 1)),
    ("p", _p_value),
    ("outside", share("outside_share_mean")),
    ("α by least squares", dec("alpha_ls_mean")),
]
_STORED3: list[Spec] = [("factor carried by storage", pm("alpha_stored_mean", "alpha_stored_std"))]
_STORED_NF: list[Spec] = [
    ("NF carried by storage", sig("nf_stored_mean")),
    ("by rounding", sig("nf_rounding_max", 2)),
    ("limited", plain("storage_limited_layers")),
]
_STORED_LAYERS: list[Spec] = [
    ("stored rank base", plain("stored_rank_base")),
    ("stored rank post", plain("stored_rank_post")),
    ("factor carried by storage", dec("alpha_stored")),
    ("NF carried by storage", sig("nf_stored")),
]
_FITS: list[Spec] = [
    ("projection", plain("projection")),
    ("Q", lambda row: FIT_NAMES[row["fit"]]),
    ("α", pm("alpha_mean", "alpha_std")),
    ("error", sig("error_mean")),
    ("smallest … largest", between("error_min", "error_max", significant)),
    ("explained", share("explained")),
    ("chance", share("small_delta_share")),
]
_LAYERS: list[Spec] = [
    ("projection", plain("projection")),
    ("layer", plain("layer")),
    ("stands out in", plain("stands_out")),
    ("scaling factor", pm("alpha_mean", "alpha_std")),
    ("NF", sig("nf")),
    ("NF / unrelated", share("nf_over_unrelated")),
    ("NF on common rank", sig("nf_rank")),
    ("co-rotation c", dec("corotation", 3)),
    ("p of c", _p_value),
    ("rank base", plain("rank_base")),
    ("rank post", plain("rank_post")),
    ("‖post − α base‖", sig("norm_delta")),
    ("scaling-only error", sig("fit_identity_error")),
    ("best-fit error", sig("fit_optimal_error")),
    ("ΔQ asymmetry", sig("residual_asymmetry")),
    ("clustered", lambda row: f"{row['clustered_base']}, {row['clustered_post']}"),
]
_EXPERTS: list[Spec] = [
    ("rank", plain("rank")),
    ("layer", plain("layer")),
    ("expert", plain("expert")),
    ("change", share("change")),
    ("most in", plain("change_of")),
    ("α by least squares", dec("alpha_ls")),
    ("NF / unrelated", share("nf_over_unrelated")),
    ("co-rotation c", dec("corotation", 3)),
]
_PAIRS: list[Spec] = [
    ("pair", plain("pair")),
    ("projection", plain("projection")),
    ("layers", plain("layers")),
    ("scaling factor", pm("alpha_mean", "alpha_std")),
    ("α′", dec("alpha_prime", 1)),
    ("NF", sig("nf_mean")),
    ("unrelated", sig("nf_unrelated")),
    ("NF / unrelated", share("nf_over_unrelated")),
    ("co-rotation c", dec("corotation_pooled", 3)),
    ("p of c", _p_value),
]
