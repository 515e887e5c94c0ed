"""What one course shows: series and settling times by band, of it and of its nulls.

Axis legend: `T` kept steps, `L` layers, `M` matrices of all projections, `B` bands.
"""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np

from svdjax.fingerprint.statistic import outlier
from tools.studies import formation_courses, formation_measures, formation_nulls
from tools.studies.formation_courses import PROJECTIONS, Course
from tools.studies.formation_measures import BANDS, against, content, progress, settled, shape_of

POSTTRAINING = ("training", "line", "walk")

Values = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A course to look at, and its kept steps."""

    course: Course
    steps: tuple[int, ...]


def analyse(item: Analysis) -> dict[str, Any]:
    """Looks at a course and at its nulls.

    Returns:
        By kind (`formation_nulls.KINDS`): ``settle``, by measure and band, the share of the course
        at which each matrix settles, in the order of ``matrices``; ``series``, by measure and
        band, means over the matrices at the kept steps; for the course itself also ``shape``.
    """
    course = item.course
    post = bool(course.recipe.parent)
    matrices = formation_courses.read(course)
    found: dict[str, Any] = {
        "steps": list(item.steps),
        "matrices": [f"{p}.{i}" for p in PROJECTIONS for i in range(matrices[p].shape[1])],
    }
    steps = np.array(item.steps, float) / item.steps[-1]
    for kind in POSTTRAINING if post else formation_nulls.KINDS:
        parts = []
        for name, path in matrices.items():
            seed = [course.recipe.seed, zlib.crc32(f"{kind} {name}".encode())]
            null = formation_nulls.path_of(kind, path, np.random.default_rng(seed))
            parts.append(_post_measures(null) if post else _measures(null))
        series = {key: np.concatenate([part[key] for part in parts], 1) for key in parts[0]}
        settle = (_post_settled if post else _settled)(steps, series)
        found[kind] = {
            "settle": {key: _by_band(value.T) for key, value in settle.items()},
            "series": {key: _by_band(series[key].mean(1).T) for key in series},
        }
    found["shape"] = _shapes(matrices)
    return found


def _measures(path: np.ndarray) -> Values:
    """Measures of pre-training, against the last matrices."""
    factors = formation_measures.factors_of(path)
    last = type(factors)(*(x[-1] for x in factors))
    return {**against(last, factors), "content": content(last, path)}


def _post_measures(path: np.ndarray) -> Values:
    """Measures of post-training: the turn from base, and against the last matrices and change."""
    factors = formation_measures.factors_of(path)
    first, last = (type(factors)(*(x[i] for x in factors)) for i in (0, -1))
    change = path - path[:1]
    turned = against(first, factors)
    return {
        "vector": against(last, factors)["vector"],
        "rotation": turned["rotation"],
        "scaling": turned["log_apart"],
        "progress": progress(first, change),
        "change": content(formation_measures.factors_of(change[-1]), change),
    }


def _settled(steps: np.ndarray, series: Values) -> Values:
    return {
        "vector_90": settled(steps, series["vector"], 0.9),
        "vector_99": settled(steps, series["vector"], 0.99),
        "subspace_90": settled(steps, series["subspace"], 0.9),
        "subspace_99": settled(steps, series["subspace"], 0.99),
        "content_50": settled(steps, series["content"], 0.5),
        "content_90": settled(steps, series["content"], 0.9),
        "spectrum_10": settled(steps, -series["log_apart"], -np.log(1.1)),
        "spectrum_5": settled(steps, -series["log_apart"], -np.log(1.05)),
    }


def _post_settled(steps: np.ndarray, series: Values) -> Values:
    return {
        "vector_99": settled(steps, series["vector"], 0.99),
        "rotation_half": settled(steps, series["rotation"], series["rotation"][-1] / 2),
        "scaling_half": settled(steps, series["scaling"], series["scaling"][-1] / 2),
        "progress_half": settled(steps, series["progress"], 0.5),
        "change_half": settled(steps, series["change"], 0.5),
    }


def _by_band(values: np.ndarray) -> dict[str, Any]:
    """Values [B, ...] by the bands' names."""
    return {name: np.round(values[i], 5).tolist() for i, name in enumerate(BANDS)}


def _shapes(matrices: formation_courses.Matrices) -> dict[str, Any]:
    """Spectra's shapes at the kept steps, and how far and how straight the matrices went."""
    parts: list[Values] = []
    for path in matrices.values():
        s = np.asarray(formation_measures.factors_of(path).s)
        shape = path.shape[-2], path.shape[-1]
        moved = _norm(path - path[:1])
        walked = np.sum(_norm(np.diff(path, axis=0)), 0, keepdims=True)
        edge = np.array([[outlier(each, shape) for each in point] for point in s])
        kept = np.sum(path[0] * path[-1], (-2, -1)) / np.sum(path[0] ** 2, (-2, -1))
        parts.append(
            {
                **shape_of(s),
                "effective_rank": shape_of(s)["effective_rank"] / s.shape[-1],
                "participation": shape_of(s)["participation"] / s.shape[-1],
                "over_edge": edge,
                "left": _norm(path - path[-1:]) / _norm(path[:1] - path[-1:]),
                "moved": moved / _norm(path[:1]),
                "straightness": moved[-1:] / walked,
                "kept_of_start": kept[None],
            }
        )
    joined = {key: np.concatenate([part[key] for part in parts], 1) for key in parts[0]}
    return {key: np.round(value.mean(1), 5).tolist() for key, value in joined.items()}


def _norm(w: np.ndarray) -> np.ndarray:
    return np.linalg.norm(w, axis=(-2, -1))
