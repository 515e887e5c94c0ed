"""What the runs of the study `middle_k` say: intervals over seeds, and paired comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from tools.studies import statistics

CONTRASTS = (
    ("pissa_middle", "pissa_top"),
    ("pissa_bottom", "pissa_top"),
    ("pissa_random", "pissa_top"),
    ("pissa_middle", "pissa_random"),
    ("pissa_middle_scaled", "pissa_top"),
    ("pissa_middle_scaled", "pissa_middle"),
    ("frame_middle", "frame_top"),
    ("frame_bottom", "frame_top"),
    ("frame_random", "frame_top"),
    ("pissa_top", "lora"),
    ("pissa_middle", "lora"),
    ("frame_top", "lora"),
    ("frame_middle", "lora"),
)
"""Comparisons of held-out losses, decided on before the results: the first minus the second."""

CONTROL = ("lora_again", "lora")
"""Two draws of the same arm: what a difference without a cause looks like."""

MEASURES = ("loss", "early", "tokens", "exchanges", "accuracy", "base_loss")

CURVE = ("mean", "low", "high")

Runs = Sequence[Mapping[str, Any]]


def early(curve: Sequence[float]) -> float:
    """Mean training loss over the first half of the steps: less is faster."""
    return float(np.mean(curve[: max(1, len(curve) // 2)]))


def arm_figures(runs: Runs, beside: Runs) -> dict[str, Any]:
    """Intervals over the seeds of one arm; ``behind`` is its curve minus that of `beside`."""
    names = ("loss", "tokens", "exchanges", "accuracy", "base_loss", "relative", "inside")
    told: dict[str, Any] = {name: short([run[name] for run in runs]) for name in names}
    told["early"] = short([early(run["curve"]) for run in runs])
    for place in ("thirds", "predicted"):
        told[place] = {key: short([run[place][key] for run in runs]) for key in runs[0][place]}
    curves, others = (np.array([run["curve"] for run in each]) for each in (runs, beside))
    told |= {"curve": _line(curves), "behind": _line(curves - others)}
    return rounded(told)


def _line(curves: np.ndarray) -> dict[str, str]:
    """Intervals over seeds of curves [seed, bin], a line of text each."""
    bins = [short(values) for values in curves.T.tolist()]
    return {key: " ".join(f"{each[key]:.3f}" for each in bins) for key in CURVE}


def contrast(first: Runs, second: Runs) -> dict[str, Any]:
    """Differences by seed, first minus second, of every measure; ``p`` is the loss's."""
    told: dict[str, Any] = {}
    for measure in MEASURES:
        values = zip(_values(first, measure), _values(second, measure), strict=True)
        told[measure] = statistics.interval([one - other for one, other in values])
    test: Any = scipy.stats.ttest_1samp(told["loss"]["values"], 0.0)
    for measure in MEASURES[1:]:
        del told[measure]["values"]
    return told | {"p": float(test.pvalue)}


def points(curve: Mapping[str, str]) -> list[dict[str, float]]:
    """The intervals of a learning curve, which are kept as one line of text each."""
    columns = [map(float, curve[key].split()) for key in CURVE]
    return [dict(zip(CURVE, each, strict=True)) for each in zip(*columns, strict=True)]


def _values(runs: Runs, measure: str) -> list[float]:
    return [early(run["curve"]) if measure == "early" else run[measure] for run in runs]


def contrasts(runs: Mapping[str, Mapping[str, Runs]]) -> dict[str, Any]:
    """`CONTRASTS` of every task where both arms were run, and the control's.

    ``holm`` is p corrected for all comparisons of all tasks; the control is none of them.
    """
    told: dict[str, Any] = {
        task: {
            f"{first}-{second}": contrast(arms[first], arms[second])
            for first, second in (*CONTRASTS, CONTROL)
            if first in arms and second in arms
        }
        for task, arms in runs.items()
    }
    control = "-".join(CONTROL)
    family = [each for task in told.values() for key, each in task.items() if key != control]
    for each, corrected in zip(family, holm([each["p"] for each in family]), strict=True):
        each["holm"] = corrected
    return rounded({"number": len(family), **told})


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the order given."""
    corrected, largest = [0.0] * len(values), 0.0
    for place, index in enumerate(np.argsort(values)):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = largest
    return corrected


def finer(losses: Mapping[float, float]) -> float:
    """How much lower a finer grid of rates might find the loss.

    By a parabola in the log of the rate, through the lowest loss and its two neighbours; 0 where
    the lowest lies at an end.
    """
    ordered = [losses[rate] for rate in sorted(losses)]
    best = int(np.argmin(ordered))
    if best in (0, len(ordered) - 1):
        return 0.0
    before, lowest, after = ordered[best - 1 : best + 2]
    return (after - before) ** 2 / (8 * (after - 2 * lowest + before))


def short(values: Sequence[float]) -> dict[str, float]:
    """`statistics.interval` without the values themselves."""
    told = statistics.interval(values)
    return {key: told[key] for key in ("mean", "low", "high", "n")}


def rounded(value: Any, figures: int = 4) -> Any:
    """The same with so many significant figures in every number, which keeps the file small."""
    if isinstance(value, dict):
        return {key: rounded(each, figures) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each, figures) for each in value]
    if isinstance(value, float) and value and math.isfinite(value):
        return round(value, figures - 1 - math.floor(math.log10(abs(value))))
    return value
