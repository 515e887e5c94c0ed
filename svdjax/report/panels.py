"""Panels of figures: a projection with all its layers.

A checkpoint of unknown architecture comes as many one-layer projections named after their tensors
(``h.0.attn.weight``, ``h.1.attn.weight``). For the figures, projections of one shape whose names
differ only in numbers are grouped (``h.*.attn.weight``, layers 0, 1), and only the largest groups
are drawn. Tables are never grouped or shortened.

Axis legend: `L` layers, `E` experts, `M` = L E matrices, layer by layer, `R` rank, `C` corner.
"""

from __future__ import annotations

import dataclasses
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
        layers: Label of every layer, [L].
        experts: Numbers of the experts of every layer, [E]; empty where there are none.
    """

    name: str
    members: tuple[ProjectionResult, ...]
    layers: tuple[str, ...]
    experts: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out) of each matrix."""
        return self.members[0].shape

    @property
    def each(self) -> int:
        """Number of matrices in a layer."""
        return len(self.experts) or 1

    @property
    def matrices(self) -> int:
        """Number of matrices `M`."""
        return len(self.layers) * self.each

    @property
    def parameters(self) -> int:
        """Number of weights behind the panel."""
        return self.shape[0] * self.shape[1] * self.matrices

    def words(self, matrix: int) -> str:
        """``layer 3``, or ``layer 3, expert 5``."""
        layer, expert = divmod(matrix, self.each)
        text = f"layer {self.layers[layer]}"
        return f"{text}, expert {self.experts[expert]}" if self.experts else text

    def stack(self, field: str, chosen: np.ndarray | None = None) -> np.ndarray:
        """A field of the metrics for all matrices, or some of them, [M, ...] in float64."""
        parts = [np.asarray(getattr(member.flat.metrics, field)) for member in self.members]
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return np.asarray(whole if chosen is None else whole[chosen]).astype(np.float64)

    def by_layer(self, values: str | np.ndarray) -> np.ndarray:
        """A field or values of all matrices [M, ...], the median of the experts: [L, ...]."""
        whole = self.stack(values) if isinstance(values, str) else values
        return whole if not self.experts else self.quantiles(whole, (0.5,))[0]

    def quantiles(self, values: np.ndarray, shares: tuple[float, ...]) -> np.ndarray:
        """Quantiles over the experts of values [M, ...] that are there, [shares, L, ...]."""
        split = values.reshape(len(self.layers), self.each, *values.shape[1:])
        # NaN go last and are not counted; a layer at a time, for memory.
        out = np.full((len(shares), len(self.layers), *values.shape[1:]), np.nan)
        for layer, members in enumerate(split):
            ordered = np.sort(members, axis=0)
            last = np.isfinite(ordered).sum(axis=0) - 1
            for row, share in zip(out, shares):
                at = np.maximum(last, 0) * share
                low, high = (
                    np.take_along_axis(ordered, edge(at).astype(int)[None], axis=0)[0]
                    for edge in (np.floor, np.ceil)
                )
                row[layer] = low + (high - low) * (at - np.floor(at))
        return out

    def clusters(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Singular values of base and of post whose vectors are arbitrary, bool [chosen, R]."""
        sides = []
        for side in ("base", "post"):
            gap, sigma = (self.stack(f"{name}_{side}", chosen) for name in ("gap", "sigma"))
            sides.append(statistics.clustered(gap, sigma, self.stack("sigma_error", chosen)))
        return sides[0], sides[1]

    @cached_property
    def clustered(self) -> tuple[np.ndarray, np.ndarray]:
        """Singular values of base and of post whose vectors are arbitrary, bool [M, R] each."""
        base, post = zip(*(member.flat.clustered for member in self.members))
        return np.concatenate(base), np.concatenate(post)

    @cached_property
    def svsm(self) -> statistics.SvsmStatistics:
        """Statistics of the scaling matrix over all layers of the panel, and per layer, [L]."""
        if self.experts:
            (member,) = self.members
            mean, std = member.layer_moments
            return dataclasses.replace(member.statistics, layer_mean=mean, layer_std=std)
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
        single = result.layers == 1 and not result.expert_numbers
        pattern = re.sub(r"\d+", "*", result.name) if single else result.name
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
        return Panel(
            *(member.name, (member,), tuple(map(str, member.layer_numbers))), member.expert_numbers
        )
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
