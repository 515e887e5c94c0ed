"""How far constructed matrices are from those they were made of: per matrix, and pooled.

Axis legend: `R` = min(in, out).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svdjax.engine.store import ADDED
from svdjax.spectral import Built, predicted_surviving, statistics


@dataclass(frozen=True)
class Change:
    """What a construction did to some matrices of one projection.

    Attributes:
        layers: How many matrices.
        change: ||new - post||_F / ||post||_F of all of them together, as stored.
        change_min: The same of the matrix that changed least.
        change_max: The same of the one that changed most.
        norm_ratio: ||new||_F / ||post||_F of all of them together.
        sigma_ratio: Mean of sigma_new / sigma_post over the top 90 %.
        sigma_ratio_min: The smallest of these ratios.
        sigma_ratio_max: The largest.
        arbitrary: Mean share of pairs whose aligned sign is arbitrary; NaN unless aligned.
        deficient: How many matrices are numerically rank-deficient, on either side.
        alpha: alpha' of eq. 9; NaN for the others.
        surviving: Share of the change of post-training that is left, <W' - alpha W_base, Delta> /
            ||Delta||^2 with Delta = W_post - alpha W_base, mean over the matrices; NaN where base
            is not known.
        surviving_predicted: What restorations leave of a small random change, mean over the
            matrices; NaN for the others.
    """

    layers: int
    change: float
    change_min: float
    change_max: float
    norm_ratio: float
    sigma_ratio: float
    sigma_ratio_min: float
    sigma_ratio_max: float
    arbitrary: float
    deficient: int
    alpha: float
    surviving: float = field(default=math.nan, metadata=ADDED)
    surviving_predicted: float = field(default=math.nan, metadata=ADDED)

    def line(self) -> str:
        """What was done in a line for stdout, and what is left of the change of post-training."""
        text = f"{self.layers} matrices, relative change {self.change:.4g}"
        if not math.isnan(self.alpha):
            text += f", alpha' {self.alpha:.6g}"
        if not math.isnan(self.surviving):
            text += f", surviving share of Delta {self.surviving:.4g}"
            if not math.isnan(self.surviving_predicted):
                text += f" (of a small random one {self.surviving_predicted:.4g})"
        return text


def record(built: Built, layer: int, construction: str = "") -> dict[str, Any]:
    """What is kept of one matrix of a stack, JSON-able.

    Args:
        built: The stack.
        layer: Which of its matrices.
        construction: Which it is; empty for a control.
    """
    _, rows, columns = built.w.shape
    sigma, post = (np.asarray(s[layer], np.float64) for s in (built.sigma, built.sigma_post))
    top = statistics.top_count(sigma.size)
    live = post[:top] > 0
    ratios = sigma[:top][live] / post[:top][live]
    return {
        "change": float(built.change[layer]),
        "norm_post": float(built.norm_post[layer]),
        "norm": float(built.norm[layer]),
        "sigma_ratio": float(ratios.mean()) if ratios.size else math.nan,
        "sigma_ratio_min": float(ratios.min()) if ratios.size else math.nan,
        "sigma_ratio_max": float(ratios.max()) if ratios.size else math.nan,
        "arbitrary": float(built.arbitrary[layer]),
        "deficient": bool(built.deficient[layer]),
        "surviving": float(built.surviving[layer]),
        "surviving_predicted": predicted_surviving(construction, (rows, columns)),
    }


def pooled(records: Sequence[Mapping[str, Any]], alpha: float | None = None) -> Change:
    """Joins the records of a projection's matrices; NaN may have become None on the way."""

    def column(name: str) -> np.ndarray:
        values = [r.get(name) for r in records]
        return np.array([math.nan if v is None else v for v in values], np.float64)

    def over(reduce: Any, values: np.ndarray) -> float:
        known = values[~np.isnan(values)]
        return float(reduce(known)) if known.size else math.nan

    change, post, norm = column("change"), column("norm_post"), column("norm")
    single = change[post > 0] / post[post > 0]
    whole = float(np.sqrt(np.sum(post**2)))
    return Change(
        layers=len(records),
        change=float(np.sqrt(np.sum(change**2))) / whole if whole else math.nan,
        change_min=over(np.min, single),
        change_max=over(np.max, single),
        norm_ratio=float(np.sqrt(np.sum(norm**2))) / whole if whole else math.nan,
        sigma_ratio=over(np.mean, column("sigma_ratio")),
        sigma_ratio_min=over(np.min, column("sigma_ratio_min")),
        sigma_ratio_max=over(np.max, column("sigma_ratio_max")),
        arbitrary=over(np.mean, column("arbitrary")),
        deficient=sum(bool(r["deficient"]) for r in records),
        alpha=math.nan if alpha is None else alpha,
        surviving=over(np.mean, column("surviving")),
        surviving_predicted=over(np.mean, column("surviving_predicted")),
    )
