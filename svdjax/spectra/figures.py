"""The paper's figures of one pair, in reading order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from svdjax.report import page
from svdjax.report.panels import Panel
from svdjax.spectra import figures_svsm, figures_vectors


def pair_figures(panels: Sequence[Panel]) -> Iterator[tuple[str, Figure]]:
    """Draws figures 2, 7, 8, 3b, 9, 20c to 25c, 3a and 10 to 14."""
    yield "svsm", figures_svsm.heatmaps(panels)
    yield "bands", figures_svsm.bands(panels)
    yield "nf", figures_vectors.nf(panels)
    yield "orthogonality", figures_vectors.orthogonality(panels)
    yield "spectra", figures_svsm.spectra(panels)
    used: set[str] = set()
    for panel in panels:
        name = "corners_" + page.slug(panel.name)
        while name in used:
            name += "_"
        used.add(name)
        yield name, figures_vectors.corners(panel)
