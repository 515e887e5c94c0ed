"""Panels of figures: a projection with all its layers.

A checkpoint of unknown architecture comes as many one-layer projections named after their tensors
(``h.0.attn.weight``, ``h.1.attn.weight``). For the figures, projections of one shape whose names
differ only in numbers are grouped (``h.*.attn.weight``, layers 0, 1), and only the largest groups
are drawn. Tables are never grouped or shortened.

Axis legend: `L` layers, `R` rank, `C` corner.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from svdjax.spectral import statistics

if TYPE_CHECKING:
    from svdjax.spectra.results import ProjectionResult

MOST_PANELS = 12


@dataclass(frozen=True)
class Panel:
    """One or several projections of one shape, drawn together along one layer axis.

    Attributes:
        name: Name of the projection, or the pattern that its members share.
        members: The projections, in the order of `layers`.
        layers: Label of every matrix, [L].
    """

    name: str
    members: tuple[ProjectionResult, ...]
    layers: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out) of each matrix."""
        return self.members[0].shape

    @property
    def parameters(self) -> int:
        """Number of weights behind the panel."""
        return self.shape[0] * self.shape[1] * len(self.layers)

    def stack(self, field: str) -> np.ndarray:
        """A field of the metrics for all layers, [L, ...] in float64."""
        parts = [np.asarray(getattr(member.metrics, field)) for member in self.members]
        return np.concatenate(parts).astype(np.float64)

    @cached_property
    def clustered(self) -> tuple[np.ndarray, np.ndarray]:
        """Singular values of base and of post whose vectors are arbitrary, bool [L, R] each."""
        base, post = zip(*(member.clustered for member in self.members))
        return np.concatenate(base), np.concatenate(post)

    @cached_property
    def svsm(self) -> statistics.SvsmStatistics:
        """Statistics of the scaling matrix over all layers of the panel, and per layer."""
        if len(self.members) == 1:
            return self.members[0].statistics
        return statistics.svsm_statistics(self.stack("svsm"))

    @property
    def nf_unrelated(self) -> float:
        """NF between unrelated matrices of this shape."""
        return self.members[0].nf_unrelated


def panels(projections: Iterable[ProjectionResult]) -> tuple[Panel, ...]:
    """Panels of projections, in the order in which they first appear."""
    groups: dict[tuple[str, tuple[int, int]], list[ProjectionResult]] = {}
    for projection in projections:
        result = projection.carried
        pattern = re.sub(r"\d+", "*", result.name) if result.layers == 1 else result.name
        groups.setdefault((pattern, (result.shape[0], result.shape[1])), []).append(result)
    return tuple(_panel(pattern, members) for (pattern, _), members in groups.items())


def drawn(projections: Mapping[str, ProjectionResult]) -> tuple[tuple[Panel, ...], str]:
    """Panels of a page's figures.

    Returns:
        At most `MOST_PANELS` panels, the largest by weights, in their original order; and a
        sentence about those left out, empty if there are none.
    """
    all_panels = panels(projections.values())
    if len(all_panels) <= MOST_PANELS:
        return all_panels, ""
    largest = sorted(all_panels, key=lambda panel: -panel.parameters)[:MOST_PANELS]
    shown = tuple(panel for panel in all_panels if panel in largest)
    share = sum(panel.parameters for panel in shown) / sum(panel.parameters for panel in all_panels)
    return shown, (
        f"The figures show {len(shown)} of {len(all_panels)} groups of matrices, those with the "
        f"most weights ({100 * share:.0f} % of all analysed weights); the tables list every matrix."
    )


def _panel(pattern: str, members: list[ProjectionResult]) -> Panel:
    if len(members) == 1:
        member = members[0]
        return Panel(member.name, (member,), tuple(map(str, range(member.layers))))
    numbers = [re.findall(r"\d+", member.name) for member in members]
    # A number that is the same in every name (mlp.w1) belongs to the name, not to the layer.
    varying = [i for i, column in enumerate(zip(*numbers)) if len(set(column)) > 1]
    indices = itertools.count()
    name = re.sub(
        r"\d+", lambda number: "*" if next(indices) in varying else number[0], members[0].name
    )
    order = sorted(range(len(members)), key=lambda i: [(len(n), n) for n in numbers[i]])
    labels = tuple(".".join(numbers[i][j] for j in varying) for i in order)
    return Panel(name, tuple(members[i] for i in order), labels)
