"""Matrices of a comparison that stand out from those of the neighbouring layers.

The rule is that of `svdjax.spectral.outliers` (docs/mathematics.md, "Layers that stand out"), here
for projections and their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from svdjax.spectral.outliers import outliers

if TYPE_CHECKING:
    from svdjax.spectra.results import Comparison, ProjectionResult


class StandOut(NamedTuple):
    """One metric in which a matrix stands out: an entry of ``stands_out`` in summary.json.

    Attributes:
      projection: name of the projection; a tensor's own name for unknown architectures.
      layer: number of the matrix within it, from 0.
      metric: ``alpha``, the mean scaling factor; ``nf``; ``change``, ||post - alpha base||_F /
        ||post||_F; ``corotation``.
      value: what was measured.
      expected: the nearest value that the neighbouring layers would have let pass.
    """

    projection: str
    layer: int
    metric: str
    value: float
    expected: float


def stand_outs(results: Iterable[ProjectionResult]) -> tuple[StandOut, ...]:
    """Returns every matrix that stands out, with the metrics in which it does.

    Args:
      results: the projections of a comparison. Those of one layer whose names differ in one
        number only (tensors of unknown architectures) are the layers of one projection.
    """
    return tuple(entry for series in _series(results) for entry in _of_series(series))


def by_matrix(entries: Iterable[StandOut]) -> dict[tuple[str, int], list[StandOut]]:
    """Groups entries by (projection, layer), farthest from what is expected first.

    Farthest is the matrix with the largest ratio of value and expected value in any metric.
    """
    groups: dict[tuple[str, int], list[StandOut]] = {}
    for entry in entries:
        groups.setdefault((entry.projection, entry.layer), []).append(entry)
    return dict(sorted(groups.items(), key=lambda item: -max(map(_distance, item[1]))))


def layer_metrics(result: ProjectionResult) -> dict[str, np.ndarray]:
    """What is compared along the layers of a projection: metric to [L]; NF over its level.

    Of the directions that storage carries, where it does not carry all.
    """
    result = result.carried
    m = result.metrics
    norm = np.asarray(m.norm_post, np.float64)
    change = np.divide(m.norm_delta, norm, out=np.full(norm.shape, np.nan), where=norm > 0)
    return {
        "alpha": result.statistics.layer_mean,
        "nf": np.asarray(result.nf, np.float64) / result.nf_unrelated,
        "change": change,
        "corotation": result.corotation,
    }


def matrix_name(comparison: Comparison, projection: str, layer: int) -> str:
    """What a matrix is called: a tensor of an unknown architecture by its own name alone."""
    deep = comparison[projection].layers > 1
    return f"{projection} of layer {layer}" if deep else projection


def summary_line(comparison: Comparison, most: int = 3) -> str:
    """What stands out in a line for a terminal, farthest from what is expected first.

    Args:
      comparison: in which at least one matrix stands out.
      most: how many matrices are named; the others are counted.
    """
    matrices = by_matrix(comparison.stands_out)
    named = [
        f"{matrix_name(comparison, *key)} ("
        + ", ".join(f"{e.metric} {e.value:.4g}, expected {e.expected:.4g}" for e in group)
        + ")"
        for key, group in list(matrices.items())[:most]
    ]
    if len(matrices) > most:
        named.append(f"{len(matrices) - most} more in summary.json")
    return f"stands out from the neighbouring layers: {'; '.join(named)}"


def _of_series(series: Sequence[tuple[ProjectionResult, int]]) -> Iterable[StandOut]:
    """Entries of matrices that are neighbours in this order: (projection, layer) each."""
    result = series[0][0]
    if len({id(one) for one, _ in series}) == 1:
        metrics = layer_metrics(result)
    else:
        metrics = _joined([layer_metrics(one) for one, _ in series])
    units = {"nf": result.nf_unrelated}
    for outlier in outliers(metrics):
        one, layer = series[outlier.layer]
        unit = units.get(outlier.metric, 1.0)
        value, expected = unit * outlier.value, unit * outlier.expected
        yield StandOut(one.name, layer, outlier.metric, value, expected)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _series(results: Iterable[ProjectionResult]) -> list[list[tuple[ProjectionResult, int]]]:
    """Matrices in their order along the layers, one list for each kind of matrix."""
    series, singles = [], {}
    for result in results:
        if result.layers > 1:
            series.append([(result, layer) for layer in range(result.layers)])
        else:
            pattern = re.sub(r"\d+", "*", result.name), result.shape
            singles.setdefault(pattern, []).append(result)
    for members in singles.values():
        numbers = [[int(text) for text in re.findall(r"\d+", one.name)] for one in members]
        # Where two numbers vary, such as layer and expert, none of the two orders is that of depth.
        if sum(len(set(column)) > 1 for column in zip(*numbers)) == 1:
            ordered = sorted(zip(numbers, members), key=lambda pair: pair[0])
            series.append([(one, 0) for _, one in ordered])
    return series


def _distance(entry: StandOut) -> float:
    """How far value and expected value are apart, as the logarithm of their ratio."""
    sizes = np.maximum(np.abs([entry.value, entry.expected]), 1e-12)
    return float(abs(np.log(sizes[0] / sizes[1])))
