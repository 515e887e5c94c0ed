"""What one course shows: series and settling times by band, of it and of its nulls.

Axis legend: `T` kept steps, `L` layers, `M` matrices of all projections, `B` bands.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from svdjax.fingerprint.statistic import outlier
from svdjax.spectral.factors import Factors
from tools.studies import formation_courses, formation_measures, formation_nulls
from tools.studies.formation_courses import Course
from tools.studies.formation_measures import BANDS, against, content, progress, settled, shape_of
from tools.studies.matrices import PROJECTIONS

POSTTRAINING = ("training", "line", "walk")

Values = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Analysis:
    """A course to look at, or one of its nulls.

    Attributes:
        course: The course.
        steps: Its kept steps.
        kind: One of `formation_nulls.KINDS`.
    """

    course: Course
    steps: tuple[int, ...]
    kind: str


def kinds_of(course: Course) -> tuple[str, ...]:
    """What is looked at beside a course, and the course itself."""
    return POSTTRAINING if course.recipe.parent else formation_nulls.KINDS


def analyse(item: Analysis) -> dict[str, Any]:
    """Looks at a course or one of its nulls.

    Returns:
        ``settle``, by measure and band, the share of the course at which each matrix settles;
        ``series``, by measure and band, means over the matrices at the kept steps; for the course
        itself also ``shape``.
    """
    course, kind = item.course, item.kind
    post = bool(course.recipe.parent)
    steps = np.array(item.steps, float) / item.steps[-1]
    parts, shapes = [], []
    for name, matrix in formation_courses.read(course).items():
        seed = [course.recipe.seed, zlib.crc32(f"{kind} {name}".encode())]
        path = formation_nulls.path_of(kind, matrix, np.random.default_rng(seed))
        factors = formation_measures.factors_of(path)
        parts.append((_post_measures if post else _measures)(path, factors))
        if kind == "training":
            shapes.append(_shapes(path, factors.s))
    series = _joined(parts)
    settle = (_post_settled if post else _settled)(steps, series)
    if kind == "noise":  # It begins with nearly all of the content.
        settle = {key: value for key, value in settle.items() if "formed" not in key}
    return {
        "steps": list(item.steps),
        "settle": {key: _by_band(value.T) for key, value in settle.items()},
        "series": {key: _by_band(series[key].mean(1).T) for key in series},
        "shape": {
            key: np.round(value.mean(1), 5).tolist() for key, value in _joined(shapes).items()
        },
    }


def _joined(parts: list[Values]) -> Values:
    """Values [T, L, ...] of several projections as [T, M, ...]."""
    return {key: np.concatenate([part[key] for part in parts], 1) for key in dict(*parts[:1])}


def across(courses: Sequence[Course]) -> dict[str, Any]:
    """How the last matrices of several seeds lie to each other, by band: means over the pairs."""
    last = [
        {name: path[-1] for name, path in formation_courses.read(course).items()}
        for course in courses
    ]
    found: dict[str, list[np.ndarray]] = {"vector": [], "log_apart": []}
    for name in PROJECTIONS:
        factors = formation_measures.factors_of(np.stack([each[name] for each in last]))
        for one in range(len(last) - 1):
            target = Factors(*(x[one] for x in factors))
            others = against(target, Factors(*(x[one + 1 :] for x in factors)))
            for key, values in found.items():
                values.append(others[key].reshape(-1, len(BANDS)))
    return {key: _by_band(np.concatenate(values).mean(0)) for key, values in found.items()}


def _measures(path: np.ndarray, factors: Factors) -> Values:
    """Measures of pre-training, against the last matrices."""
    last = Factors(*(x[-1] for x in factors))
    held = content(last, path)
    # Beyond what the start holds of it by chance, or because little is learned there.
    return {**against(last, factors), "content": held, "formed": (held - held[0]) / (1 - held[0])}


def _post_measures(path: np.ndarray, factors: Factors) -> Values:
    """Measures of post-training: the turn from base, and against the last matrices and change."""
    first, last = (Factors(*(x[i] for x in factors)) for i in (0, -1))
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
        "formed_50": settled(steps, series["formed"], 0.5),
        "formed_90": settled(steps, series["formed"], 0.9),
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


def _shapes(path: np.ndarray, s: Any) -> Values:
    """Shape of the spectra at the kept steps, and how far and how straight the matrices went."""
    shape = path.shape[-2], path.shape[-1]
    moved = _norm(path - path[:1])
    walked = np.sum(_norm(np.diff(path, axis=0)), 0, keepdims=True)
    figures = shape_of(s)
    return {
        **figures,
        "effective_rank": figures["effective_rank"] / s.shape[-1],
        "participation": figures["participation"] / s.shape[-1],
        "over_edge": np.array([[outlier(each, shape) for each in point] for point in s]),
        "left": _norm(path - path[-1:]) / _norm(path[:1] - path[-1:]),
        "moved": moved / _norm(path[:1]),
        "straightness": moved[-1:] / walked,
        "kept_of_start": np.sum(path[0] * path[-1], (-2, -1))[None] / _norm(path[:1]) ** 2,
    }


def _norm(w: np.ndarray) -> np.ndarray:
    return np.linalg.norm(w, axis=(-2, -1))
