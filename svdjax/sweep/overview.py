"""All pairs of a sweep side by side: list, tables, sections and the paper's figures of several."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.report.numbers import ends, listed, percent
from svdjax.report.panels import drawn
from svdjax.report.section import index_sections
from svdjax.spectra.standout import by_matrix, matrix_name
from svdjax.spectra.storage import rank_notes
from svdjax.spectra.tables import MOST_PAIRS, pairs_table
from svdjax.spectra.views import matrix_views, pairs_view
from svdjax.sweep.stages import REGISTRY, stages_of
from svdjax.sweep.trajectory import from_start, pair_name
from svdjax.sweep.trajectory_page import trajectory_section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from svdjax.spectra.results import Comparison


def overview(
    folder: pathlib.Path,
    comparisons: Mapping[str, Comparison],
    papers: Mapping[str, str],
    trajectory: Sequence[str],
    results: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Writes the tables of all pairs; returns what the page says of them.

    Args:
        folder: The sweep's directory.
        comparisons: Results by pair name.
        papers: Column of the paper's tables by pair name.
        trajectory: Labels of a trajectory's points in order.
        results: Results of the other stages: by stage, then by pair.
    """
    table = pairs_table(comparisons)
    table.write(folder / "tables")
    view = pairs_view(table)
    pairs = {
        name: drawn(comparisons[name].projections)[0] for name in _shown(comparisons, trajectory)
    }
    pairs = {name: panels for name, panels in pairs.items() if panels}

    def draw() -> Iterator[tuple[str, Figure]]:
        from svdjax.spectra import figures_pairs

        for name in ("nf", "share", "bands", "svsm"):
            yield f"pairs_{name}", getattr(figures_pairs, name)(pairs)

    return {
        "pairs": [_entry(name, comparison) for name, comparison in comparisons.items()],
        "tables": [*([] if trajectory else matrix_views(table)), view] if view.rows else [],
        "trajectory": trajectory_section(comparisons, trajectory, folder) if trajectory else None,
        "sections": index_sections(results, stages_of(REGISTRY), folder, papers),
        "draw": draw if pairs else None,
    }


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


def _shown(comparisons: Mapping[str, Comparison], trajectory: Sequence[str]) -> list[str]:
    """Names of the pairs in the figures: of a trajectory those from its start, evenly chosen."""
    if not trajectory:
        return list(comparisons)[:MOST_PAIRS]
    names = [pair_name(*pair) for pair in from_start(trajectory)]
    indices = np.linspace(0, len(names) - 1, min(MOST_PAIRS, len(names))).round().astype(int)
    return [names[i] for i in indices]
