"""The part of an index that follows a training run: table, curves and a few sentences."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report import page, style
from svdjax.report.cells import MOST_COLUMNS, MOST_ROWS, Head, TableView, dec, plain, share, view
from svdjax.report.numbers import MISSING, percent
from svdjax.report.panels import Panel, drawn
from svdjax.report.section import Section
from svdjax.report.table import Table
from svdjax.spectra.tables import over, ratio
from svdjax.sweep import figures_trajectory
from svdjax.sweep.figures_trajectory import Curves
from svdjax.sweep.trajectory import from_start, pair_name, positions, step_to_step

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult

KINDS: Mapping[str, tuple[str, Callable[[Sequence[str]], list[tuple[str, str]]]]] = {
    "start": ("from the start", from_start),
    "previous": ("step to step", step_to_step),
}
"""What a point is compared with: as the table and as a reader calls it, and the pairs."""


def trajectory_section(
    comparisons: Mapping[str, Comparison], labels: Sequence[str], folder: pathlib.Path
) -> Section:
    """Writes ``tables/trajectory.*`` and ``figures/trajectory.png``; returns what the index shows.

    Args:
      comparisons: results by pair name.
      labels: the trajectory's points in order, see `svdjax.sweep.trajectory`.
      folder: the sweep's.
    """
    table = trajectory_table(comparisons, labels)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    table.write(folder / "tables")
    first = comparisons[pair_name(*from_start(labels)[0])]
    chosen, note = drawn(first.projections)
    curves = _curves(comparisons, labels, [panel.name for panel in chosen])
    figures = []
    if chosen:
        with style.drawing():
            figure = figures_trajectory.curves(curves)
            alt = f"{_TITLE}: NF, change and scaling of {', '.join(p.name for p in chosen)}."
            figures = [page.place(figure, folder / "figures", "trajectory", _TITLE, _CAPTION, alt)]
    return Section(
        lead=_LEAD,
        findings=_findings(table, labels),
        facts=[],
        notes=[note] if note else [],
        tables=_views(table),
        figures=figures,
        files=[table.name],
    )


def change(one: ProjectionResult | Panel) -> np.ndarray:
    """||W_post - W_base||_F / ||W_base||_F of every matrix, [L]; NaN where W_base is 0.

    From what the kernels leave: W_post - alpha W_base is orthogonal to W_base for the alpha of
    least squares, so the squares of norm_delta and of (alpha - 1) ||W_base|| add up.
    """
    stack = one.stack if isinstance(one, Panel) else lambda key: getattr(one.metrics, key)
    delta, alpha, base = (
        np.asarray(stack(key), np.float64) for key in ("norm_delta", "alpha_ls", "norm_base")
    )
    return ratio(np.hypot(delta, (alpha - 1) * base), base)


def trajectory_table(comparisons: Mapping[str, Comparison], labels: Sequence[str]) -> Table:
    """One row per pair of points and projection, those from the start first."""
    at = dict(zip(labels, positions(labels)))
    rows = [
        _row(kind, pair, at, one)
        for kind, (_, pairs) in KINDS.items()
        for pair in pairs(labels)
        for one in comparisons[pair_name(*pair)].projections.values()
    ]
    return Table("trajectory", _COLUMNS, tuple(rows))


_COLUMNS = (
    *("against", "from", "to", "step_from", "step_to", "projection", "layers"),
    *("alpha_mean", "alpha_std", "nf_mean", "nf_unrelated", "nf_over_unrelated"),
    *("change_mean", "change_min", "change_max", "rank_deficient_layers"),
)


def _row(
    kind: str, pair: tuple[str, str], at: Mapping[str, int], one: ProjectionResult
) -> dict[str, Any]:
    moved, one = change(one), one.carried
    return {
        "against": kind,
        "from": pair[0],
        "to": pair[1],
        "step_from": at[pair[0]],
        "step_to": at[pair[1]],
        "projection": one.name,
        "layers": one.layers,
        "alpha_mean": one.alpha_mean,
        "alpha_std": one.alpha_std,
        "nf_mean": one.nf_mean,
        "nf_unrelated": one.nf_unrelated,
        "nf_over_unrelated": one.nf_mean / one.nf_unrelated,
        "change_mean": over(np.mean, moved),
        "change_min": over(np.min, moved),
        "change_max": over(np.max, moved),
        "rank_deficient_layers": int(np.sum(one.rank_deficient)),
    }


def _curves(
    comparisons: Mapping[str, Comparison], labels: Sequence[str], names: Sequence[str]
) -> Curves:
    """By quantity, kind and panel: the values at the later point of each pair."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for title, pairs in KINDS.values():
        for pair in pairs(labels):
            panels, _ = drawn(comparisons[pair_name(*pair)].projections)
            for panel in panels:
                nf = over(np.mean, panel.stack("nf")) / panel.nf_unrelated
                values = {
                    "nf": nf,
                    "change": over(np.mean, change(panel)),
                    "alpha": panel.svsm.alpha_mean,
                }
                for key, value in values.items():
                    found.setdefault((key, title), {}).setdefault(panel.name, []).append(value)
    lines = {key: {name: each[name] for name in names} for key, each in found.items()}
    return Curves(tuple(positions(labels)[1:]), tuple(title for title, _ in KINDS.values()), lines)


def _views(table: Table) -> list[TableView]:
    names = list(dict.fromkeys(row["projection"] for row in table.rows))
    if len(names) > MOST_COLUMNS:
        return [view(table, _TITLE, _ROWS, _SPECS, folded=True)]
    views = []
    for kind, (title, _) in KINDS.items():
        rows = [row for row in table.rows if row["against"] == kind]
        for what, (caption, show) in _SHOWN.items():
            lines = _lines(rows, names, show)
            heads = (Head("steps", text=True, whole=True), *(Head(name) for name in names))
            hidden = max(0, len(lines) - MOST_ROWS)
            kept = tuple(lines[:MOST_ROWS])
            folded = kind != "start"
            file = f"tables/{table.name}.csv"
            views.append(TableView(f"{what}, {title}", caption, heads, kept, hidden, file, folded))
    return views


def _lines(
    rows: Iterable[Mapping[str, Any]],
    names: Sequence[str],
    show: Callable[[Mapping[str, Any]], str],
) -> list[tuple[str, ...]]:
    """One line per pair, one cell per projection."""
    lines: dict[str, dict[str, str]] = {}
    for row in rows:
        lines.setdefault(f"{row['from']} → {row['to']}", {})[row["projection"]] = show(row)
    return [(pair, *(one.get(name, MISSING) for name in names)) for pair, one in lines.items()]


def _findings(table: Table, labels: Sequence[str]) -> list[tuple[str, str]]:
    """Where it ended, by when half of the way was made, and its largest step."""
    start, end = labels[0], labels[-1]
    whole = {
        row["projection"]: row
        for row in table.rows
        if row["against"] == "start" and row["to"] == end
    }
    found = []
    for key, words in (
        ("nf_over_unrelated", "NF is {} of the unrelated level in {}, {} in {}"),
        ("change_mean", "the weights changed by {} of their norm in {}, {} in {}"),
    ):
        known = [row for row in whole.values() if np.isfinite(row[key])]
        if known:
            low, high = (pick(known, key=lambda row: row[key]) for pick in (min, max))
            text = words.format(
                *(percent(high[key]), high["projection"], percent(low[key]), low["projection"])
            )
            found.append(text)
    lines = []
    if found:
        lines.append((f"{start} → {end}", f"{found[0][0].upper()}{'; '.join(found)[1:]}."))
    if len(labels) > 2 and found:
        moved = _mean_change(table, "start")
        if moved and (half := moved[end] / 2) > 0:
            by = next(label for label in labels[1:] if moved[label] >= half)
            lines.append(
                (
                    "half way",
                    f"Step {by} is the first half as far from {start} as {end} is, {_OVER_ALL}.",
                )
            )
        each = _mean_change(table, "previous")
        if each:
            top = max(each, key=lambda label: each[label])
            before = labels[labels.index(top) - 1]
            lines.append(
                (
                    "largest step",
                    f"{before} → {top}: a change by {percent(each[top])}, {_OVER_ALL}.",
                )
            )
    return lines


def _mean_change(table: Table, kind: str) -> dict[str, float]:
    """Mean change over the projections, by the later point; empty where one has none."""
    sums: dict[str, list[float]] = {}
    for row in table.rows:
        if row["against"] == kind:
            sums.setdefault(row["to"], []).append(row["change_mean"])
    found = {label: over(np.mean, values) for label, values in sums.items()}
    return found if all(np.isfinite(value) for value in found.values()) else {}


_SHOWN: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "NF / unrelated": (
        "Mean NF of the layers as a share of the level of unrelated matrices.",
        share("nf_over_unrelated"),
    ),
    "Change": (
        "‖later − earlier‖ / ‖earlier‖ (Frobenius), mean over the layers.",
        share("change_mean"),
    ),
    "Scaling factor": (
        "σ later / σ earlier, mean over the layers and the top 90 % of the singular values.",
        dec("alpha_mean"),
    ),
}
_SPECS = [
    ("against", plain("against")),
    ("from", plain("from")),
    ("to", plain("to")),
    ("projection", plain("projection")),
    ("NF / unrelated", share("nf_over_unrelated")),
    ("change", share("change_mean")),
    ("scaling factor", dec("alpha_mean")),
]
_OVER_ALL = "in the mean of the projections"
_TITLE = "Over the steps"
_ROWS = "Means over the layers; change is ‖later − earlier‖ / ‖earlier‖."
_LEAD = (
    "Every step against the first point, and against the one before it. Neighbouring steps are not "
    "always equally far apart: what happened between them is not divided by their distance."
)
_CAPTION = (
    "Means over the layers of each projection. NF / unrelated: 0 both sides turned alike, 100 % "
    "(dashed) as between unrelated matrices. Change: ‖later − earlier‖ / ‖earlier‖. Scaling: mean "
    "σ later / σ earlier of the top 90 %, 1 (dashed) unchanged."
)
