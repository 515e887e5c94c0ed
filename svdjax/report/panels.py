"""What a figure draws in one panel: a projection with all its layers.

A checkpoint of unknown architecture comes as many one-layer projections named after their tensors
(``h.0.attn.weight``, ``h.1.attn.weight``). For the figures, those whose names differ in numbers
only and whose shapes agree are put together again (``h.*.attn.weight``, layers 0, 1), and only the
largest groups are drawn. Tables are never grouped or shortened.

Axis legend: `L` layers, `R` rank, `C` corner.
"""

from __future__ import annotations

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
        name: Projection, or the pattern its members share.
        members: The projections, in the order of `layers`.
        layers: A label for every matrix, `L` of them.
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
        """The level of NF between unrelated matrices of this shape."""
        return self.members[0].nf_unrelated


def panels(projections: Iterable[ProjectionResult]) -> tuple[Panel, ...]:
    """Groups projections, as storage carries them, in the order in which they first appear."""
    groups: dict[tuple[str, tuple[int, int]], list[ProjectionResult]] = {}
    for whole in projections:
        result = whole.carried
        pattern = re.sub(r"\d+", "*", result.name) if result.layers == 1 else result.name
        groups.setdefault((pattern, (result.shape[0], result.shape[1])), []).append(result)
    return tuple(_panel(pattern, members) for (pattern, _), members in groups.items())


def drawn(projections: Mapping[str, ProjectionResult]) -> tuple[tuple[Panel, ...], str]:
    """Chooses the panels of a page's figures.

    Returns:
        At most `MOST_PANELS` panels, those with the most weights, in their original order; and a
        sentence that says what is not drawn, empty when everything is.
    """
    every = panels(projections.values())
    if len(every) <= MOST_PANELS:
        return every, ""
    largest = sorted(every, key=lambda panel: -panel.parameters)[:MOST_PANELS]
    chosen = tuple(panel for panel in every if panel in largest)
    share = sum(panel.parameters for panel in chosen) / sum(panel.parameters for panel in every)
    return chosen, (
        f"The figures show {len(chosen)} of {len(every)} groups of matrices, those with the most "
        f"weights ({100 * share:.0f} % of all analysed weights); the tables list every matrix."
    )


def _panel(pattern: str, members: list[ProjectionResult]) -> Panel:
    if len(members) == 1:
        only = members[0]
        return Panel(only.name, (only,), tuple(str(layer) for layer in range(only.layers)))
    numbers = [re.findall(r"\d+", one.name) for one in members]
    # A number that is the same in every name (mlp.w1) belongs to the name, not to the layer.
    varying = [i for i in range(len(numbers[0])) if len({number[i] for number in numbers}) > 1]
    pieces = re.split(r"\d+", members[0].name)
    name = pieces[0]
    for i, piece in enumerate(pieces[1:]):
        name += ("*" if i in varying else numbers[0][i]) + piece
    order = sorted(range(len(members)), key=lambda i: [(len(n), n) for n in numbers[i]])
    labels = tuple(".".join(numbers[i][j] for j in varying) for i in order)
    return Panel(name, tuple(members[i] for i in order), labels)
