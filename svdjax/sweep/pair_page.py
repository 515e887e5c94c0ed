"""Report of one pair: tables, figures and a page."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from svdjax.engine.stages import PairPage
from svdjax.report import page, style
from svdjax.report.page import Picture
from svdjax.report.panels import Panel, drawn
from svdjax.report.paper_tables import paper_column
from svdjax.report.section import pair_sections
from svdjax.spectra import figures_fits, figures_svsm, figures_vectors
from svdjax.spectra.findings import MOST_LINES, coverage_counts, findings, lead, projection_lines
from svdjax.spectra.tables import pair_tables
from svdjax.spectra.views import pair_views
from svdjax.sweep.stages import REGISTRY, stages_of

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison


def write_pair(
    comparison: Comparison,
    directory: str | os.PathLike[str],
    *,
    paper: str | None = None,
    results: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes ``tables/*.csv|json``, ``figures/*.png`` and ``report.html`` of a pair.

    The page is self-contained: it opens without network and without the directories beside it.
    Every file is written atomically.

    Args:
        comparison: Results of the pair.
        directory: The pair's directory in the workdir; made if it does not exist.
        paper: Column of the paper's tables to print beside the measurement, such as
            ``Qwen2.5-Math-1.5B/instruct``; empty or None for none. The page notes a key that the
            paper has no row for.
        results: Results of the other stages by name, each with a section of its own; those of
            ``nulls`` also judge the verdict at the top.

    Returns:
        The path of the page.
    """
    folder, results = pathlib.Path(directory), results or {}
    column = paper_column(paper)
    tables = pair_tables(comparison, column)
    for table in tables.values():
        table.write(folder / "tables")
    panels, note = drawn(comparison.projections)
    with style.drawing():
        figures = list(pair_figures(panels, folder / "figures")) if panels else []
    sections = pair_sections(results, stages_of(REGISTRY), folder, PairPage(panels, paper))
    lines = projection_lines(comparison)
    coverage = comparison.coverage
    notes = [*coverage.get("notes", ()), *([note] if note else [])]
    if paper and column is None:
        notes.append(f"The paper's Table 3 has no row {paper!r}; nothing is printed beside.")
    return page.render(
        folder / "report.html",
        "pair.html",
        pair=comparison.pair,
        base=comparison.base,
        post=comparison.post,
        family=comparison.family,
        options=", ".join(f"{key} = {value}" for key, value in dict(comparison.options).items()),
        lead=lead(comparison, results.get("nulls")),
        findings=findings(comparison, column),
        lines=lines[:MOST_LINES],
        more_lines=max(0, len(lines) - MOST_LINES),
        analysed=len(coverage.get("analysed", ())),
        left_out=sorted(dict(coverage.get("left_out", {})).items()),
        reasons=coverage_counts(comparison),
        notes=notes,
        files=[*tables, *(name for section in sections for name in section.files)],
        tables=pair_views(tables, column.key if column else None),
        figures=figures,
        sections=sections,
        index="../report.html",
    )


def pair_figures(panels: Sequence[Panel], folder: pathlib.Path) -> Iterator[Picture]:
    """Draws, writes and yields the figures of a pair, in reading order."""
    names = ", ".join(panel.name for panel in panels)
    figures = [
        (figures_svsm.heatmaps(panels), "svsm", "Singular value scaling (figs. 2, 7)", _SVSM),
        (figures_svsm.bands(panels), "bands", "Scaling per layer (fig. 8)", _BANDS),
        (figures_vectors.nf(panels), "nf", "NF per layer (figs. 3b, 9)", _NF),
        (
            figures_vectors.orthogonality(panels),
            "orthogonality",
            "Corners of I_orth (figs. 20c to 25c)",
            _ORTHOGONALITY + _clusters(panels),
        ),
        (figures_svsm.spectra(panels), "spectra", "Spectra", _SPECTRA),
        (figures_fits.fits(panels), "fits", "Equation 8 as a fit, per layer", _FITS),
    ]
    if figures_fits.has_residuals(panels):
        figure, title = figures_fits.residuals(panels), "Residual rotations (eq. 13)"
        figures.append((figure, "residuals", title, _RESIDUALS + _left_out(panels)))
    for figure, name, title, caption in figures:
        yield page.place(figure, folder, name, title, caption, f"{title}, for {names}.")
    used: set[str] = set()
    for panel in panels:
        name = "corners_" + page.slug(panel.name)
        while name in used:
            name += "_"
        used.add(name)
        title = f"Corners of {panel.name} (as figs. 3a, 10 to 14)"
        alt = f"Similarity matrices and I_orth of the first and last layer of {panel.name}."
        caption = _CORNERS + _clusters([panel])
        yield page.place(figures_vectors.corners(panel), folder, name, title, caption, alt)


def _clusters(panels: Sequence[Panel]) -> str:
    """Explanation of the marks of clusters, empty if there are none."""
    return _CLUSTERS if figures_vectors.has_clusters(panels) else ""


def _left_out(panels: Sequence[Panel]) -> str:
    """Sentence on the matrices without residuals, empty if there are none."""
    ambiguous = [member.ambiguous_rotation for panel in panels for member in panel.members]
    count, total = sum(int(layers.sum()) for layers in ambiguous), sum(map(len, ambiguous))
    if not count:
        return ""
    return (
        f" Left out: {count} of {total} matrices in which no common rotation is the nearest "
        "(Q1 + Q2 is singular)."
    )


_SVSM = (
    "Each column is a layer, each row a singular value, largest on top; colour is σ post / σ base, "
    "white where nothing changed, on one scale for all panels. An even colour means one factor for "
    "all; the dashed line ends the top 90 % that the tables use. Arrows on the colour bar: values "
    "beyond it exist."
)
_BANDS = (
    "Line: mean of the scaling factors of the top 90 % singular values in each layer; band: plus "
    "and minus one standard deviation. No visible band and a level line mean one factor for all. "
    "Dashed: no scaling."
)
_NF = (
    "NF is 0 where the left and right singular vectors turned by the same rotation. Left: NF and, "
    "dashed, the level that unrelated matrices of the same shape give (it depends on the shape). "
    "Right: NF divided by that level, which compares across shapes. Open markers: a matrix is "
    "rank-deficient, NF on the common rank is drawn instead."
)
_ORTHOGONALITY = (
    "Leading corner of I_orth = Q1ᵀ Q2. The identity (a red diagonal on white) means that both "
    "sides turned together; singular values that lie close together mix and blur it."
)
_SPECTRA = (
    "Singular values of base (solid) and post (dashed) for the first, middle and last layer, on a "
    "logarithmic scale: pure scaling shifts a curve without bending it. Values of 0 are not drawn."
)
_FITS = (
    "Relative error of W_post ≈ (U_base Q)(α Σ_base)(V_base Q)ᵀ: lower is better. With Q = I there "
    "is scaling only; the best Q and α, where asked for, is the best that any common rotation can "
    "do."
)
_RESIDUALS = (
    "What is left of the two rotations after the best common one is taken out: distance of ΔQ1 and "
    "ΔQ2 from the identity, and of the two from one another. All 0 means one rotation for both."
)
_CORNERS = (
    "Rows: first and last layer. From the left: how the leading input directions of post overlap "
    "with those of base, the same for the output directions, the absolute difference of the two, "
    "and I_orth. Equal first and second panels and a dark third mean that both sides turned alike."
)
_CLUSTERS = (
    " Orange edges: rows and columns whose singular values equal another one within their error: "
    "their vectors, and single entries here, are arbitrary (docs/mathematics.md, section 3)."
)
