"""What a fingerprint found, as the JSON file has it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svdjax.checkpoint import input_digest
from svdjax.descent import Agreement, log10_p, p_value, pool
from svdjax.engine import devices
from svdjax.engine.descent.candidates import Blocks, Candidate
from svdjax.engine.descent.sides import Pair, Tokens
from svdjax.engine.descent.verdict import ASSUMPTION, Thresholds
from svdjax.engine.results import FORMAT_VERSION


@dataclass(frozen=True)
class Found:
    """Everything there is to tell.

    Attributes:
      pair: the two sides.
      blocks: which block was held against which.
      tokens: which rows of the embeddings.
      tried: the alignments tried.
      best: the one that showed most.
      verdict: the word.
      log10_p: decimal logarithm of the p-value, corrected for the number of alignments.
      thresholds: where the words change.
      notes: lines for the reader.
      seconds: what it took.
    """

    pair: Pair
    blocks: Blocks
    tokens: Tokens
    tried: Sequence[Candidate]
    best: Candidate
    verdict: str
    log10_p: float
    thresholds: Thresholds
    notes: Sequence[str]
    seconds: float


def evidence(found: Found) -> dict[str, Any]:
    """The content of the file. NaN becomes null when it is written."""
    pair, pooled = found.pair, found.best.pooled
    sides = {"reference": pair.reference, "suspect": pair.suspect}
    return {
        "format_version": FORMAT_VERSION,
        "verdict": found.verdict,
        "distance": 1 - pooled.effect,
        "p_value": p_value(found.log10_p),
        "log10_p_value": found.log10_p,
        "effect": pooled.effect,
        "z": pooled.z,
        "matrices": pooled.count,
        "thresholds": dataclasses.asdict(found.thresholds),
        "assumption": ASSUMPTION,
        "reference": str(pair.reference.checkpoint.source),
        "suspect": str(pair.suspect.checkpoint.source),
        "families": {name: side.config.family for name, side in sides.items()},
        "alignment": _alignment(found),
        "projections": {
            name: _projection([layer[name] for layer in found.best.layers], found)
            for name in pair.projections
        },
        "notes": [*pair.notes, *found.notes],
        "inputs": {name: input_digest(side.checkpoint) for name, side in sides.items()},
        "versions": devices.versions(),
        "seconds": round(found.seconds, 3),
    }


def _alignment(found: Found) -> dict[str, Any]:
    shares = {
        name: float(np.mean([moved[name] for moved in found.best.moved]))
        for name in found.best.moved[0]
    }
    return {
        "residual": found.best.name,
        "residual_turn": found.best.turn(),
        "tried": {
            one.name: {"distance": 1 - one.pooled.effect, "z": one.pooled.z} for one in found.tried
        },
        "tokens": {"common": len(found.tokens.rows[0]), "matched_by": found.tokens.by},
        "layers": [list(block) for block in found.blocks],
        **shares,
        "by_layer": found.best.moved,
    }


def _projection(agreements: Sequence[Agreement], found: Found) -> dict[str, Any]:
    pooled = pool(([one] for one in agreements), halves=found.best.in_halves)
    ratios = [one.nf / one.nf_unrelated for one in agreements if np.isfinite(one.nf)]
    return {
        "shape": list(agreements[0].shape),
        "layers": len(agreements),
        "distance": 1 - pooled.effect,
        "effect": pooled.effect,
        "z": pooled.z,
        "p_value": p_value(pooled.log10_p),
        "nf_unrelated": agreements[0].nf_unrelated,
        "nf_ratio_mean": float(np.mean(ratios)) if ratios else float("nan"),
        "by_layer": [_layer(one, block) for one, block in zip(agreements, found.blocks)],
    }


def _layer(one: Agreement, block: tuple[int, int]) -> dict[str, Any]:
    return {
        "reference": block[0],
        "suspect": block[1],
        "distance": 1 - one.effect,
        "trace": one.trace,
        "z": one.z,
        "p_value": p_value(log10_p(one.z)),
        "nf": one.nf,
        "nf_ratio": one.nf / one.nf_unrelated,
    }


def sentence(result: Mapping[str, Any]) -> str:
    """The verdict in a sentence, with distance and p-value."""
    words = {
        "derived": "derived: the suspect's weights descend from those of the reference",
        "unrelated": "unrelated: the suspect's weights do not descend from those of the reference",
        "undecided": "undecided: the evidence does not allow a verdict",
    }
    log10 = result["log10_p_value"]
    p = f"{result['p_value']:.2g}" if log10 > -300 else f"1e{math.ceil(log10)}"
    return (
        f"{words[result['verdict']]} (distance {result['distance']:.4f}: 0 same, about 1 "
        f"unrelated; p {'<=' if log10 < 0 else '='} {p}; residual streams aligned by: "
        f"{result['alignment']['residual']})"
    )
