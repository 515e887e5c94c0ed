"""Matrices of a comparison that stand out: from the neighbouring layers, from a layer's experts.

Applies the rules of `svdjax.spectral.outliers` (docs/mathematics.md, "Layers that stand out") to
named projections. Axis legend: `L` layers, `E` experts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from svdjax.spectra.axes import Place
from svdjax.spectral.outliers import SCALES, among_experts, outliers

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult


class StandOut(NamedTuple):
    """One metric in which a matrix stands out: an entry of ``stands_out`` in summary.json.

    Attributes:
        projection: Name of the projection; a tensor's own name for unknown architectures.
        layer: Number of the layer.
        metric: ``alpha``, the mean scaling factor; ``nf``; ``change``, ||post - alpha base||_F /
            ||post||_F; ``corotation``.
        value: Value of the metric.
        expected: Nearest value that the neighbouring layers, or the layer's experts, would have
            let pass.
        expert: Number of the expert; None where there are none, or where the median of the layer's
            experts stands out from those of the neighbouring layers.
    """

    projection: str
    layer: int
    metric: str
    value: float
    expected: float
    expert: int | None = None

    @property
    def place(self) -> Place:
        """Layer and expert."""
        return Place(self.layer, self.expert)

    def entry(self) -> dict[str, Any]:
        """Entry of summary.json; ``expert`` only where there is one."""
        entry = self._asdict()
        return entry if self.expert is not None else {k: entry[k] for k in self._fields[:-1]}


def stand_outs(projections: Iterable[ProjectionResult]) -> tuple[StandOut, ...]:
    """Every metric in which a matrix stands out.

    Args:
        projections: The projections of a comparison. One-layer projections whose names differ in
            one number only (tensors of unknown architectures) are the layers of one series.
    """
    return tuple(entry for series in _layer_series(projections) for entry in _outliers(series))


def by_matrix(entries: Iterable[StandOut]) -> dict[tuple[str, Place], list[StandOut]]:
    """Entries by projection and place, in descending order of deviation.

    The deviation of a matrix is its largest ratio of value to expected value in any metric.
    """
    groups: dict[tuple[str, Place], list[StandOut]] = {}
    for entry in entries:
        groups.setdefault((entry.projection, entry.place), []).append(entry)
    return dict(sorted(groups.items(), key=lambda group: -max(map(_deviation, group[1]))))


def layer_metrics(projection: ProjectionResult) -> dict[str, np.ndarray]:
    """Metrics that are compared: name to [L] or [L, E]; NF over its level.

    Computed on the directions that storage carries.
    """
    projection = projection.carried
    m = projection.metrics
    norm = np.asarray(m.norm_post, np.float64)
    change = np.divide(m.norm_delta, norm, out=np.full(norm.shape, np.nan), where=norm > 0)
    return {
        "alpha": projection.statistics.layer_mean,
        "nf": np.asarray(projection.nf, np.float64) / projection.nf_unrelated,
        "change": change,
        "corotation": projection.corotation,
    }


def matrix_name(comparison: Comparison, projection: str, place: Place) -> str:
    """Name of a matrix in sentences; a tensor of an unknown architecture has its own."""
    result = comparison[projection]
    if result.layer_numbers == (0,) and not result.expert_numbers:
        return projection
    some = result.expert_numbers and place.expert is None
    return f"{projection} of {place.words}" + (" (median of its experts)" if some else "")


def _outliers(series: Sequence[tuple[ProjectionResult, int]]) -> Iterable[StandOut]:
    """Entries of a series of (projection, layer's index), in the order of depth."""
    projection = series[0][0]
    metrics: Mapping[str, np.ndarray] = layer_metrics(projection)
    if len(series) > projection.layers:
        parts = [layer_metrics(member) for member, _ in series]
        metrics = {name: np.concatenate([part[name] for part in parts]) for name in metrics}
    found = among_experts(metrics) if projection.expert_numbers else outliers(metrics)
    for outlier in found:
        member, layer = series[outlier.layer]
        unit = member.nf_unrelated if outlier.metric == "nf" else 1.0
        value, expected = unit * outlier.value, unit * outlier.expected
        index = (layer,) if outlier.expert is None else (layer, outlier.expert)
        if outlier.metric == "nf":
            usual = (1 + SCALES["nf"].effect) * expected
            if value <= math.hypot(usual, _reversals(member, index)):
                continue
        number, expert = member.layer_numbers[layer], None
        if outlier.expert is not None:
            expert = member.expert_numbers[outlier.expert]
        yield StandOut(member.name, number, outlier.metric, value, expected, expert)


def _reversals(projection: ProjectionResult, index: tuple[int, ...]) -> float:
    """NF that reversed signs of the least singular directions make: 2 sqrt(k) / rank.

    A singular value that a change takes through zero leaves as a direction with the other sign on
    one side, which says nothing of the matrix. k of them lie within the spectral norm that a random
    change of the same size has.
    """
    m, (rows, columns) = projection.metrics, projection.shape
    sigma, delta = np.asarray(m.sigma_base)[index], np.asarray(m.norm_delta)[index]
    reach = delta[..., None] * (rows**-0.5 + columns**-0.5)
    count = np.median(np.count_nonzero(sigma <= reach, axis=-1))  # of a layer's experts
    return 2 * math.sqrt(count) / sigma.shape[-1]


def _layer_series(
    projections: Iterable[ProjectionResult],
) -> list[list[tuple[ProjectionResult, int]]]:
    """Layers of each kind as (projection, layer's index), in the order of depth."""
    series, tensors = [], {}
    for projection in projections:
        if projection.layers > 1 or projection.expert_numbers:
            series.append([(projection, layer) for layer in range(projection.layers)])
        else:
            pattern = re.sub(r"\d+", "*", projection.name), projection.shape
            tensors.setdefault(pattern, []).append(projection)
    for members in tensors.values():
        numbers = [[int(text) for text in re.findall(r"\d+", tensor.name)] for tensor in members]
        # Where two numbers vary, such as layer and expert, neither order is that of depth.
        if sum(len(set(column)) > 1 for column in zip(*numbers)) == 1:
            ordered = sorted(zip(numbers, members), key=lambda pair: pair[0])
            series.append([(tensor, 0) for _, tensor in ordered])
    return series


def _deviation(entry: StandOut) -> float:
    """|log(value / expected)|."""
    sizes = np.maximum(np.abs([entry.value, entry.expected]), 1e-12)
    return float(abs(np.log(sizes[0] / sizes[1])))
