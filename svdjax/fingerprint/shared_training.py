"""Whether two related checkpoints share training, or only the weights they were initialised with.

Initial weights are random: their singular values are those of a random matrix, which end at
``rms(W) (√in + √out)``. Training makes singular values beyond that, and the directions that belong
to them. Models that were trained apart from the same initial weights therefore agree in the many
small singular directions and not in the leading ones; models that share training agree in the
leading ones first, since these are what further training, noise, rounding and pruning move least.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from svdjax.fingerprint.alignment import Alignment
from svdjax.fingerprint.parts import Part, related

TRAINING, INITIALISATION, OPEN = "training", "initial weights", "not decided"
SHARED_TRAINING = 0.5
"""Least agreement along leading directions of checkpoints that share training."""
SHARED_START = 0.3
"""Largest agreement along leading directions of checkpoints that share initial weights alone."""
TRAINED = 1.5
"""Least ratio of σ_1 to that of a random matrix at which leading directions are training's."""


def shared_training(alignment: Alignment, parts: Sequence[Part]) -> dict[str, Any]:
    """Whether related layers share training, from their leading singular directions.

    Args:
        alignment: The alignment, measured.
        parts: Its parts, judged.

    Returns:
        "kind": "training", "initial weights", "not decided", or None where no layer is related;
        "leading": agreement of the leading tenth of the singular directions, mean over the
        matrices (1 the same, 0 unrelated); "outliers": σ_1 of the reference over the largest
        singular value of a random matrix of its size, mean over the matrices.
    """
    chosen = {(part.module, part.reference, part.suspect) for part in related(parts)}
    along, outliers = [], []
    for block in alignment.blocks:
        for module, agreements in alignment.modules(block).items():
            if (module, *block) in chosen:
                along += [each.leading for each in agreements]
                outliers += [each.outlier for each in agreements]
    if not along:
        return {"kind": None, "leading": math.nan, "outliers": math.nan}
    leading, outlier = float(np.nanmean(along)), float(np.nanmean(outliers))
    return {"kind": kind(leading, outlier), "leading": leading, "outliers": outlier}


def kind(leading: float, outliers: float) -> str:
    """The word for an agreement along leading directions.

    Args:
        leading: The agreement, 1 the same, 0 unrelated.
        outliers: σ_1 over the largest singular value of a random matrix.
    """
    if outliers < TRAINED:
        return OPEN
    if leading <= SHARED_START:
        return INITIALISATION
    return TRAINING if leading >= SHARED_TRAINING else OPEN
