"""The part of an index that follows a training run: table, curves and a few sentences."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from svdjax.report.cells import (
    MOST_COLUMNS,
    MOST_ROWS,
    Head,
    Row,
    TableView,
    dec,
    plain,
    share,
    view,
)
from svdjax.report.numbers import percent
from svdjax.report.panels import Panel, drawn
from svdjax.report.plot import Plot
from svdjax.report.section import Section
from svdjax.report.table import Table
from svdjax.spectra.tables import over, ratio
from svdjax.spectra.views import pairs_matrix
from svdjax.sweep.trajectory import from_start, pair_name, positions, step_to_step

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult

KINDS: Mapping[str, tuple[str, Callable[[Sequence[str]], list[tuple[str, str]]]]] = {
    "start": ("from the start", from_start),
    "previous": ("step to step", step_to_step),
}
"""Kinds of pairs: name in the table to title and pairs."""
QUANTITIES = (
    ("nf", "NF / NF unrelated"),
    ("change", "change / norm"),
    ("alpha", "σ later / σ earlier"),
)


@dataclass(frozen=True)
class Curves:
    """Values of the curves.

    Attributes:
        steps: Step of the later point of every pair.
        kinds: Titles of the columns.
        lines: Values by (quantity, kind) and projection, one for each of `steps`.
    """

    steps: Sequence[int]
    kinds: Sequence[str]
    lines: Mapping[tuple[str, str], Mapping[str, Sequence[float]]]


def trajectory_section(
    comparisons: Mapping[str, Comparison], labels: Sequence[str], folder: pathlib.Path
) -> Section:
    """Writes ``tables/trajectory.*``; returns the section of all pairs.

    Args:
        comparisons: Results by pair name.
        labels: Labels of the trajectory's points in order (`svdjax.sweep.trajectory`).
        folder: The sweep's directory.
    """
    table = trajectory_table(comparisons, labels)
    table.write(folder / "tables")
    first = comparisons[pair_name(*from_start(labels)[0])]
    panels, note = drawn(first.projections)
    names = [panel.name for panel in panels]
    curves = _curves(comparisons, labels, names)
    return Section(
        lead=_LEAD,
        findings=_findings(table, labels),
        notes=[note] if note else [],
        tables=_views(table),
        plots=[_plot(curves)] if names else [],
        files=[table.name],
        anchor="trajectory",
        title="Trajectory",
    )


def change(projection: ProjectionResult | Panel) -> np.ndarray:
    """||W_post - W_base||_F / ||W_base||_F of every matrix, [L]; NaN where W_base is 0.

    W_post - alpha W_base is orthogonal to W_base for the alpha of least squares, so the squares of
    norm_delta and of (alpha - 1) ||W_base|| add up.
    """
    if isinstance(projection, Panel):
        delta, alpha, base = map(projection.stack, ("norm_delta", "alpha_ls", "norm_base"))
    else:
        m = projection.metrics
        norms = (m.norm_delta, m.alpha_ls, m.norm_base)
        delta, alpha, base = (np.asarray(value, np.float64) for value in norms)
    return ratio(np.hypot(delta, (alpha - 1) * base), base)


def trajectory_table(comparisons: Mapping[str, Comparison], labels: Sequence[str]) -> Table:
    """Table with a row per pair of points and projection, pairs from the start first."""
    steps = dict(zip(labels, positions(labels)))
    rows = []
    for kind, (_, pairs) in KINDS.items():
        for first, second in pairs(labels):
            for projection in comparisons[pair_name(first, second)].projections.values():
                changes = change(projection)
                row = {
                    "against": kind,
                    "from": first,
                    "to": second,
                    "step_from": steps[first],
                    "step_to": steps[second],
                    "projection": projection.name,
                    "change_mean": over(np.mean, changes),
                    "change_min": over(np.min, changes),
                    "change_max": over(np.max, changes),
                    **projection.carried.summary(),
                }
                rows.append({key: row[key] for key in _COLUMNS})
    return Table("trajectory", _COLUMNS, tuple(rows))


_COLUMNS = (
    *("against", "from", "to", "step_from", "step_to", "projection", "layers"),
    *("alpha_mean", "alpha_std", "nf_mean", "nf_unrelated", "nf_over_unrelated"),
    *("change_mean", "change_min", "change_max", "rank_deficient_layers"),
)


def _curves(
    comparisons: Mapping[str, Comparison], labels: Sequence[str], names: Sequence[str]
) -> Curves:
    """Values of the panels of these names, at the later point of each pair."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for title, pairs in KINDS.values():
        for key in ("nf", "change", "alpha"):
            values[key, title] = {name: [] for name in names}
        for pair in pairs(labels):
            for panel in drawn(comparisons[pair_name(*pair)].projections)[0]:
                if panel.name in names:
                    nf = over(np.mean, panel.stack("nf")) / panel.nf_unrelated
                    values["nf", title][panel.name].append(nf)
                    values["change", title][panel.name].append(over(np.mean, change(panel)))
                    values["alpha", title][panel.name].append(panel.svsm.alpha_mean)
    return Curves(positions(labels)[1:], [title for title, _ in KINDS.values()], values)


def _plot(curves: Curves) -> Plot:
    """NF, change and scaling over the steps, from the start and step to step."""
    panels = []
    for key, quantity in QUANTITIES:
        for kind in curves.kinds:
            series = [
                {"label": name, "y": np.asarray(values, np.float64), "colour": i}
                for i, (name, values) in enumerate(curves.lines[key, kind].items())
            ]
            panel = {"title": f"{quantity}, {kind}", "x": list(curves.steps), "series": series}
            panels.append(panel | {"rules": [1.0]} if key == "alpha" else panel | {"zero": True})
    options = {"columns": len(curves.kinds), "height": 230}
    return Plot("trajectory", _TITLE, _CAPTION, "lines", panels, x="step", options=options)


def _views(table: Table) -> list[TableView]:
    names = list(dict.fromkeys(row["projection"] for row in table.rows))
    if len(names) > MOST_COLUMNS:
        return [view(table, _TITLE, _ROWS, _SPECS, folded=True)]
    views = []
    for kind, (title, _) in KINDS.items():
        rows = tuple(
            {**row, "pair": f"{row['from']} → {row['to']}"}
            for row in table.rows
            if row["against"] == kind
        )
        for quantity, (caption, show) in _QUANTITIES.items():
            views.append(
                pairs_matrix(
                    Table(table.name, table.columns, rows),
                    f"{quantity}, {title}",
                    caption,
                    show,
                    names=names,
                    head=Head("steps", text=True, whole=True),
                    folded=kind != "start",
                    most=MOST_ROWS,
                )
            )
    return views


def _findings(table: Table, labels: Sequence[str]) -> list[tuple[str, str]]:
    """The whole way, the first step beyond half of it, and the largest step."""
    start, end = labels[0], labels[-1]
    rows = [row for row in table.rows if row["against"] == "start" and row["to"] == end]
    clauses = []
    for key, text in (
        ("nf_over_unrelated", "NF is {} of the unrelated level in {}, {} in {}"),
        ("change_mean", "the weights changed by {} of their norm in {}, {} in {}"),
    ):
        defined = {row["projection"]: row[key] for row in rows if np.isfinite(row[key])}
        if defined:
            high, low = max(defined, key=defined.__getitem__), min(defined, key=defined.__getitem__)
            clauses.append(text.format(percent(defined[high]), high, percent(defined[low]), low))
    if not clauses:
        return []
    sentence = "; ".join(clauses)
    findings = [(f"{start} → {end}", f"{sentence[0].upper()}{sentence[1:]}.")]
    if len(labels) > 2:
        changes = _mean_changes(table, "start")
        if changes and (half := changes[end] / 2) > 0:
            step = next(label for label in labels[1:] if changes[label] >= half)
            text = f"Step {step} is the first half as far from {start} as {end} is, {_OVER_ALL}."
            findings.append(("half way", text))
        changes = _mean_changes(table, "previous")
        if changes:
            step = max(changes, key=changes.__getitem__)
            previous = labels[labels.index(step) - 1]
            text = f"{previous} → {step}: a change by {percent(changes[step])}, {_OVER_ALL}."
            findings.append(("largest step", text))
    return findings


def _mean_changes(table: Table, kind: str) -> dict[str, float]:
    """Mean change over the projections, by the later point; empty where a point has none."""
    changes: dict[str, list[float]] = {}
    for row in table.rows:
        if row["against"] == kind:
            changes.setdefault(row["to"], []).append(row["change_mean"])
    means = {label: over(np.mean, values) for label, values in changes.items()}
    return means if np.isfinite(list(means.values())).all() else {}


_QUANTITIES: Mapping[str, tuple[str, Callable[[Row], str]]] = {
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
