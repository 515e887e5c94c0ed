"""Tables as a page shows them: chosen columns, rounded numbers, a bounded number of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
from svdjax.spectra.figures_fits import FIT_NAMES


def pair_views(tables: Mapping[str, Table], paper: str | None) -> list[TableView]:
    """The tables of a pair's page. `paper` is the matched row of the paper, if any."""
    views = [
        view(
            tables["table3"],
            "Scaling of the singular values (Table 3)",
            "Mean and standard deviation of σ post / σ base over all layers and the top 90 % of "
            "the singular values" + (f", beside the paper's row {paper}." if paper else "."),
            [*_TABLE3, *(_PAPER3 if paper else ()), *_where_limited(tables["table3"], _STORED3)],
        ),
        view(
            tables["table4"],
            "Scaling factors α′ (Table 4)",
            "The mean factor rounded to one decimal, as the constructions use it.",
            [*_TABLE4, *(_PAPER4 if paper else ())],
        ),
        view(
            tables["nf"],
            "Agreement of the two rotations (NF)",
            "NF over the layers, the level of unrelated matrices of that shape, and their ratio: "
            "0 same, about 1 unrelated. Ranks: layers in which a matrix is rank-deficient, where "
            "NF is not defined and NF on the common rank stands in."
            + _stored_caption(tables["nf"]),
            [*_NF, *_where_limited(tables["nf"], _STORED_NF)],
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
        view(
            tables["layers"],
            "Every layer",
            "One row per matrix; the file has more columns. Stands out in: the metrics in which a "
            "matrix differs from the neighbouring layers by more than these do among themselves. "
            "Clustered: how many singular values of base and of post equal another one within "
            "their error, so that their vectors are arbitrary.",
            [*_LAYERS, *_where_limited(tables["layers"], _STORED_LAYERS, "storage_limited")],
            folded=True,
            most=None,
        ),
    ]
    return [view for view in views if view.rows]


def pairs_view(table: Table) -> TableView:
    """The index's table of pairs."""
    return view(
        table,
        "All pairs and projections",
        "Scaling factors and NF as measured; NF / unrelated is 0 for the same matrix and about 1 "
        "for unrelated ones.",
        _PAIRS,
        folded=True,
    )


def matrix_views(table: Table) -> list[TableView]:
    """One row per pair, one column per projection: NF / unrelated, and the scaling factor."""
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
    """Whether `pairs_matrix` has anything to show, in a width that can be read."""
    return 0 < len({row["projection"] for row in table.rows}) <= MOST_COLUMNS


def pairs_matrix(table: Table, title: str, caption: str, show: Callable[[Row], str]) -> TableView:
    """One row per pair, one column per projection; a dash where a pair lacks the projection.

    Args:
      table: with columns ``pair`` and ``projection``.
      title: of the view.
      caption: likewise.
      show: what a cell says of its row.
    """
    names = list(dict.fromkeys(row["projection"] for row in table.rows))
    cells: dict[str, dict[str, str]] = {}
    for row in table.rows:
        cells.setdefault(row["pair"], {})[row["projection"]] = show(row)
    heads = (Head("pair", text=True), *(Head(name) for name in names))
    rows = tuple((pair, *(one.get(name, MISSING) for name in names)) for pair, one in cells.items())
    return TableView(title, caption, heads, rows, 0, f"tables/{table.name}.csv", False)


def _three(value: float) -> str:
    return decimal(value, 3)


def _chance(row: Row) -> str:
    p = row["corotation_p"]
    return "< 1e-300" if p < 1e-300 else significant(p, 2)


def _where_limited(
    table: Table, specs: list[Spec], key: str = "storage_limited_layers"
) -> list[Spec]:
    """Columns of what storage carries; none where it carries everything."""
    return specs if any(row[key] for row in table.rows) else []


def _stored_caption(table: Table) -> str:
    if not _where_limited(table, _STORED_NF):
        return ""
    return (
        " Carried by storage: NF on the directions that stand out of the rounding of the stored "
        "numbers, what rounding alone makes of it, and the layers where others do not."
    )


def _shape(row: Row) -> str:
    return f"{row['in']} × {row['out']}"


_TABLE3: list[Spec] = [
    ("projection", plain("projection")),
    ("in × out", _shape),
    ("layers", plain("layers")),
    ("scaling factor", pm("alpha_mean", "alpha_std")),
    ("undefined ratios", plain("svsm_nan")),
]
_PAPER3: list[Spec] = [
    ("paper", pm("paper_mean", "paper_std")),
    ("difference", dec("difference")),
]
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
    ("layers, smallest … largest", between("corotation_min", "corotation_max", _three)),
    ("z", dec("corotation_z", 1)),
    ("p", _chance),
    ("outside", share("outside_share_mean")),
    ("α by least squares", dec("alpha_ls_mean")),
]
_STORED3: list[Spec] = [
    ("factor carried by storage", pm("alpha_stored_mean", "alpha_stored_std")),
]
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
    ("p of c", _chance),
    ("rank base", plain("rank_base")),
    ("rank post", plain("rank_post")),
    ("‖post − α base‖", sig("norm_delta")),
    ("scaling-only error", sig("fit_identity_error")),
    ("best-fit error", sig("fit_optimal_error")),
    ("ΔQ asymmetry", sig("residual_asymmetry")),
    ("clustered", lambda row: f"{row['clustered_base']}, {row['clustered_post']}"),
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
    ("p of c", _chance),
]
