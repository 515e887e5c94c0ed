"""Index of a sweep: all pairs side by side."""

from __future__ import annotations

import os
import pathlib
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report import page, style
from svdjax.report.numbers import ends, listed, percent
from svdjax.report.page import Picture
from svdjax.report.panels import MOST_PANELS, drawn
from svdjax.report.section import index_sections
from svdjax.spectra import figures_pairs
from svdjax.spectra.figures_pairs import MOST_PAIRS, MOST_ROWS, Pairs
from svdjax.spectra.standout import by_matrix, matrix_name
from svdjax.spectra.storage import rank_notes
from svdjax.spectra.tables import pairs_table
from svdjax.spectra.views import matrix_views, pairs_view
from svdjax.sweep.stages import REGISTRY, stages_of
from svdjax.sweep.trajectory import from_start, pair_name
from svdjax.sweep.trajectory_page import trajectory_section

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison


def write_index(
    workdir: str | os.PathLike[str],
    comparisons: Mapping[str, Comparison],
    *,
    papers: Mapping[str, str] | None = None,
    trajectory: Sequence[str] = (),
    results: Mapping[str, Mapping[str, Any]] | None = None,
) -> pathlib.Path:
    """Writes ``report.html`` of a sweep, with ``tables/*`` and ``figures/pairs_*.png``.

    Args:
        workdir: The sweep's directory; every pair's report is in ``<workdir>/<pair>/``.
        comparisons: Results by pair name.
        papers: Column of the paper's tables by pair name, where the models are the paper's.
        trajectory: Labels of the points in order, where the pairs are those of a trajectory
            (`svdjax.sweep.trajectory`).
        results: Results of the other stages: by stage, then by pair.

    Returns:
        The path of the page.
    """
    folder = pathlib.Path(workdir)
    table = pairs_table(comparisons)
    table.write(folder / "tables")
    pairs = {
        name: drawn(comparisons[name].projections)[0] for name in _shown(comparisons, trajectory)
    }
    pairs = {name: panels for name, panels in pairs.items() if panels}
    with style.drawing():
        figures = list(_figures(pairs, folder / "figures")) if pairs else []
    view = pairs_view(table)
    return page.render(
        folder / "report.html",
        "index.html",
        title=f"Sweep {folder.resolve().name}",
        pairs=[_entry(name, comparison) for name, comparison in comparisons.items()],
        tables=[*([] if trajectory else matrix_views(table)), view] if view.rows else [],
        trajectory=trajectory_section(comparisons, trajectory, folder) if trajectory else None,
        notes=_notes(comparisons, pairs),
        figures=figures,
        sections=index_sections(results or {}, stages_of(REGISTRY), folder, papers or {}),
        pages={name: _link(name) for name in comparisons},
    )


def _entry(name: str, comparison: Comparison) -> dict[str, str]:
    """Entry of a pair in the list at the top."""
    projections = [projection.carried for projection in comparison.projections.values()]
    parts = [f"{len(projections)} projections", *rank_notes(projections)]
    shares = [p.nf_mean / p.nf_unrelated for p in projections if np.isfinite(p.nf_mean)]
    if shares:
        parts.append(f"mean NF of the projections {ends(shares, percent)} of the unrelated level")
    factors = [p.alpha_mean for p in projections if np.isfinite(p.alpha_mean)]
    if factors:
        parts.append(f"mean scaling factors {ends(factors, '{:.3f}'.format)}")
    odd = [matrix_name(comparison, *matrix) for matrix in by_matrix(comparison.stands_out)]
    if odd:
        parts.append(f"standing out: {listed(odd, 3)}")
    line = f"{'; '.join(parts)}."
    return {"name": name, "base": comparison.base, "post": comparison.post, "line": line}


def _link(name: str) -> str:
    """Link from the index to the page of a pair."""
    return f"{urllib.parse.quote(name, safe='', errors='surrogatepass')}/report.html"


def _shown(comparisons: Mapping[str, Comparison], trajectory: Sequence[str]) -> list[str]:
    """Names of the pairs in the figures: of a trajectory those from its start, evenly chosen."""
    if not trajectory:
        return list(comparisons)[:MOST_PAIRS]
    names = [pair_name(*pair) for pair in from_start(trajectory)]
    indices = np.linspace(0, len(names) - 1, min(MOST_PAIRS, len(names))).round().astype(int)
    return [names[i] for i in indices]


def _notes(comparisons: Mapping[str, Comparison], pairs: Pairs) -> list[str]:
    """Sentences on what the figures leave out."""
    notes = []
    if len(comparisons) > len(pairs) > 0:
        shown = list(pairs)
        notes.append(
            f"The figures of pairs show {len(pairs)} of {len(comparisons)}, {shown[0]} to "
            f"{shown[-1]}."
        )
    if len(pairs) > MOST_ROWS:
        notes.append(f"The heatmaps show the first {MOST_ROWS} of {len(comparisons)} pairs.")
    names = {panel.name for panels in pairs.values() for panel in panels}
    if len(names) > MOST_PANELS:
        notes.append(f"The figures show {MOST_PANELS} of {len(names)} groups of matrices.")
    return notes


def _figures(pairs: Pairs, folder: pathlib.Path) -> Iterator[Picture]:
    names = ", ".join(pairs)
    for draw, name, title, caption in (
        (figures_pairs.nf, "pairs_nf", "NF per layer, all pairs (fig. 9)", _NF),
        (figures_pairs.share, "pairs_share", "NF / unrelated, all pairs", _SHARE),
        (figures_pairs.bands, "pairs_bands", "Scaling per layer, all pairs (fig. 8)", _BANDS),
        (figures_pairs.svsm, "pairs_svsm", "Scaling heatmaps, all pairs (fig. 2)", _SVSM),
    ):
        yield page.place(draw(pairs), folder, name, title, caption, f"{title}: {names}.")


_NF = (
    "One panel per projection, one colour per pair. 0: both sides turned by the same rotation; "
    "dashed: the level that unrelated matrices of this shape give."
)
_SHARE = (
    "The same divided by the unrelated level, on one scale for all panels: 0 same, about 100 % "
    "(dashed) unrelated. Logarithmic where the values spread over more than a decade."
)
_BANDS = (
    "Mean of the scaling factors of the top 90 % singular values in each layer, with a band of one "
    "standard deviation. A level line without a visible band means one factor for all."
)
_SVSM = (
    "Rows are pairs, columns projections; in each panel layers run across and singular values "
    "downwards, largest on top. Colour is σ post / σ base, white where nothing changed, on one "
    "scale for all."
)
