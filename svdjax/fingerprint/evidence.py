"""What a comparison of two checkpoints shows, as the JSON file has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from svdjax.checkpoint import input_digest
from svdjax.engine import devices
from svdjax.engine.store import FORMAT_VERSION
from svdjax.fingerprint.candidates import Candidate
from svdjax.fingerprint.ends import Tokens
from svdjax.fingerprint.parts import Part, related
from svdjax.fingerprint.sides import Pair
from svdjax.fingerprint.statistic import Agreement, log10_p, p_value, pool
from svdjax.fingerprint.verdict import ASSUMPTION, Thresholds

DIRECTION = "unknown"
"""Which of two checkpoints came first: the comparison is symmetric and cannot say."""


@dataclass(frozen=True)
class Evidence:
    """Everything that goes into the file.

    Attributes:
      pair: the two sides.
      tokens: which rows of the embeddings.
      tried: the alignments tried.
      best: the one that showed most.
      parts: every part under that one.
      verdict: the word.
      log10_p: decimal logarithm of the p-value, corrected for the number of alignments.
      thresholds: where the words change.
      training: what the two share that only training makes.
      notes: lines for the reader.
      seconds: what it took.
    """

    pair: Pair
    tokens: Tokens
    tried: Sequence[Candidate]
    best: Candidate
    parts: Sequence[Part]
    verdict: str
    log10_p: float
    thresholds: Thresholds
    training: Mapping[str, Any]
    notes: Sequence[str]
    seconds: float


def content(evidence: Evidence) -> dict[str, Any]:
    """The content of the file. NaN becomes null when it is written."""
    pair, pooled = evidence.pair, evidence.best.pooled
    sides = {"reference": pair.reference, "suspect": pair.suspect}
    return {
        "format_version": FORMAT_VERSION,
        "verdict": evidence.verdict,
        "direction": DIRECTION,
        "distance": 1 - pooled.effect,
        "p_value": p_value(evidence.log10_p),
        "log10_p_value": evidence.log10_p,
        "effect": pooled.effect,
        "z": pooled.z,
        "matrices": pooled.count,
        "thresholds": dataclasses.asdict(evidence.thresholds),
        "assumption": ASSUMPTION,
        "reference": str(pair.reference.checkpoint.source),
        "suspect": str(pair.suspect.checkpoint.source),
        "families": {name: side.config.family for name, side in sides.items()},
        "alignment": _alignment(evidence),
        "related_parts": [part.content() for part in related(evidence.parts)],
        "parts": [part.content() for part in evidence.parts],
        "shared_training": dict(evidence.training),
        "projections": {
            name: _projection([layer[name] for layer in evidence.best.layers], evidence)
            for name in pair.projections
        },
        "notes": [*pair.notes, *evidence.notes],
        "inputs": {name: input_digest(side.checkpoint) for name, side in sides.items()},
        "versions": devices.versions(),
        "seconds": round(evidence.seconds, 3),
    }


def _alignment(evidence: Evidence) -> dict[str, Any]:
    shares = {
        name: float(np.mean([moved[name] for moved in evidence.best.moved]))
        for name in evidence.best.moved[0]
    }
    return {
        "residual": evidence.best.residual,
        "residual_turn": evidence.best.turn(),
        "tried": {
            one.name: {"distance": 1 - one.pooled.effect, "z": one.pooled.z}
            for one in evidence.tried
        },
        "tokens": {"common": len(evidence.tokens.rows[0]), "matched_by": evidence.tokens.by},
        "layers": [list(block) for block in evidence.best.blocks],
        **shares,
        "by_layer": evidence.best.moved,
    }


def _projection(agreements: Sequence[Agreement], evidence: Evidence) -> dict[str, Any]:
    pooled = pool(([one] for one in agreements), halves=evidence.best.in_halves)
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
        "by_layer": [_layer(one, block) for one, block in zip(agreements, evidence.best.blocks)],
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
