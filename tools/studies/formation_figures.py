"""Figures of the study of formation: what its JSON holds of the analysed courses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.studies.formation_measures import BANDS
from tools.studies.formation_nulls import KINDS
from tools.studies.statistics import interval

PLOTTED = ("first", "5 to 10 %", "25 to 50 %", "last 10 %")
COMPARED = ("top tenth", "lower half")
PLOTTED_SHAPES = ("effective_rank", "participation", "left")
POST_PLOTTED = {"rotation": "turn of base's vectors", "change": "content of the change's bands"}
SHOWN = {
    "training": (
        *("vector_90", "formed_50", "spectrum_10"),
        *("rotation_half", "progress_half", "change_half"),
    ),
    "line": ("vector_90", "spectrum_10", "rotation_half"),
}
"""Measures of which the JSON has every band, in training and on the line."""


def whole_figures(found: dict[str, Any], loss: float) -> dict[str, Any]:
    """Figures of the whole training: settling in steps, order in shares of the course."""
    last = found["training"]["steps"][-1]
    keys = list(found["training"]["settle"])
    shape = found["training"]["shape"]
    return {
        "steps": found["training"]["steps"],
        "last_loss": round(loss, 4),
        "settle": {
            kind: {
                key: {b: round(last * float(np.mean(v))) for b, v in each.items()}
                for key, each in found[kind]["settle"].items()
            }
            for kind in ("training", "line")
        },
        "order": {
            key: {
                kind: round(float(np.mean(_order(found, kind, key))), 4)
                for kind in KINDS
                if key in found[kind]["settle"]
            }
            for key in keys
        },
        "lag": {
            band: {kind: round(float(np.mean(_lag(found, kind, band))), 4) for kind in KINDS}
            for band in COMPARED
        },
        # Of the matrices, the part where training is ordered more than the line.
        "beyond_line": {
            key: float(np.mean(_order(found, "training", key) > _order(found, "line", key)))
            for key in keys
        },
        "series": {
            kind: {
                key: {b: _rounded(found[kind]["series"][key][b]) for b in PLOTTED}
                for key in ("formed", "vector", "log_ratio")
            }
            for kind in ("training", "line")
        },
        "start": {
            key: {b: round(each[0], 4) for b, each in found["training"]["series"][key].items()}
            for key in ("vector", "content")
        },
        "start_of_walk": {
            b: round(each[0], 4) for b, each in found["walk"]["series"]["content"].items()
        },
        "shape": {
            key: _rounded(values if key in PLOTTED_SHAPES else _ends(values))
            for key, values in shape.items()
        },
    }


def seeds_figures(found: list[dict[str, Any]], losses: list[float]) -> dict[str, Any]:
    """Figures of several seeds: intervals over them of each one's mean over the matrices."""
    kinds = [kind for kind in KINDS if kind in found[0]]
    keys = list(found[0]["training"]["settle"])

    def settle(kind: str, key: str, band: str) -> list[float]:
        return [float(np.mean(each[kind]["settle"][key][band])) for each in found]

    def settles(kind: str) -> Any:
        return found[0][kind]["settle"]

    def lag(kind: str, band: str) -> np.ndarray:
        return np.array([np.mean(_lag(each, kind, band)) for each in found])

    def order(kind: str, key: str) -> np.ndarray:
        return np.array([np.mean(_order(each, kind, key)) for each in found])

    lags = COMPARED if "vector_90" in keys else ()
    return {
        "steps": found[0]["training"]["steps"],
        "last_loss": _interval(losses),
        "lag": {band: {kind: _interval(lag(kind, band)) for kind in kinds} for band in lags},
        "lag_beyond": {
            band: {kind: _interval(lag("training", band) - lag(kind, band)) for kind in kinds[1:]}
            for band in lags
        },
        "settle": {
            kind: {
                key: {b: _interval(settle(kind, key, b)) for b in BANDS}
                for key in keys
                if key in shown
            }
            for kind, shown in SHOWN.items()
        },
        # Positive: the lower half settles later than the top tenth.
        "order": {
            key: {kind: _interval(order(kind, key)) for kind in kinds if key in settles(kind)}
            for key in keys
        },
        "beyond": {
            key: {
                kind: _interval(order("training", key) - order(kind, key))
                for kind in kinds[1:]
                if key in settles(kind)
            }
            for key in keys
        },
        "series": {
            kind: {
                key: {
                    b: _rounded(np.mean([each[kind]["series"][key][b] for each in found], 0))
                    for b in PLOTTED
                }
                for key in POST_PLOTTED
                if key in found[0][kind]["series"]
            }
            for kind in ("training", "line")
        },
        "moved": _interval([each["training"]["shape"]["moved"][-1] for each in found]),
        "straightness": _interval([each["training"]["shape"]["straightness"][0] for each in found]),
        "kept_of_start": _interval(
            [each["training"]["shape"]["kept_of_start"][0] for each in found]
        ),
    }


def post_figures(found: dict[str, Any]) -> dict[str, Any]:
    """Figures of one whole post-training, without intervals: means over the matrices."""
    training = found["training"]
    return {
        "steps": training["steps"],
        "settle": {
            key: {band: round(float(np.mean(v)), 4) for band, v in each.items()}
            for key, each in training["settle"].items()
        },
        "order": {
            key: {kind: round(float(np.mean(_order(found, kind, key))), 4) for kind in found}
            for key in training["settle"]
        },
        "moved": round(float(np.mean(training["shape"]["moved"][-1])), 4),
        "straightness": round(float(np.mean(training["shape"]["straightness"])), 4),
    }


def _order(found: dict[str, Any], kind: str, key: str) -> np.ndarray:
    """Settling of the lower half after that of the top tenth, in shares of the course, [M]."""
    settle = found[kind]["settle"][key]
    return np.array(settle["lower half"], float) - np.array(settle["top tenth"], float)


def _lag(found: dict[str, Any], kind: str, band: str) -> np.ndarray:
    """Settling of a band's vectors after that of its singular values, in shares of the course."""
    settle = found[kind]["settle"]
    return np.array(settle["vector_90"][band]) - np.array(settle["spectrum_10"][band])


def _ends(values: Sequence[float]) -> list[float]:
    return [values[0], values[-1]]


def _interval(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """The interval of the kit, short enough for many of them."""
    found = interval(list(values))
    return {key: round(found[key], 4) for key in ("mean", "low", "high")}


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]
