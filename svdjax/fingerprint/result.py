"""The content of a verdict's JSON file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from svdjax.checkpoint import input_digest
from svdjax.engine import devices
from svdjax.engine.store import FORMAT_VERSION
from svdjax.fingerprint.alignment import Alignment
from svdjax.fingerprint.embeddings import Tokens
from svdjax.fingerprint.pair import Pair
from svdjax.fingerprint.parts import Part, related
from svdjax.fingerprint.shared_training import shared_training
from svdjax.fingerprint.statistic import Agreement, log10_p, p_value, pool
from svdjax.fingerprint.verdict import ASSUMPTION, Thresholds

DIRECTION = "unknown"
"""The order of two checkpoints in time: the comparison is symmetric and cannot say."""


def content(
    pair: Pair,
    tokens: Tokens,
    tried: Sequence[Alignment],
    best: Alignment,
    parts: Sequence[Part],
    *,
    verdict: str,
    log10_p: float,
    thresholds: Thresholds,
    notes: Sequence[str],
    seconds: float,
) -> dict[str, Any]:
    """The content of the file. NaN becomes null when it is written.

    Args:
        pair: The two models.
        tokens: Rows of the embeddings that were compared.
        tried: The alignments that were tried.
        best: The alignment that showed most.
        parts: Every part under that one.
        verdict: The word.
        log10_p: Decimal logarithm of the p-value, corrected for the number of alignments.
        thresholds: Distances and p-value at which the verdict changes.
        notes: Lines for the reader.
        seconds: Time it took.
    """
    pooled = best.pooled
    models = {"reference": pair.reference, "suspect": pair.suspect}
    return {
        "format_version": FORMAT_VERSION,
        "verdict": verdict,
        "direction": DIRECTION,
        "distance": 1 - pooled.effect,
        "p_value": p_value(log10_p),
        "log10_p_value": log10_p,
        "effect": pooled.effect,
        "z": pooled.z,
        "matrices": pooled.count,
        "thresholds": dataclasses.asdict(thresholds),
        "assumption": ASSUMPTION,
        "reference": str(pair.reference.checkpoint.source),
        "suspect": str(pair.suspect.checkpoint.source),
        "families": {name: model.config.family for name, model in models.items()},
        "alignment": _alignment(tokens, tried, best),
        "related_parts": [part.content() for part in related(parts)],
        "parts": [part.content() for part in parts],
        "shared_training": shared_training(best, parts),
        "projections": {name: _projection(name, best) for name in pair.projections},
        "notes": [*pair.notes, *notes],
        "inputs": {name: input_digest(model.checkpoint) for name, model in models.items()},
        "versions": devices.versions(),
        "seconds": round(seconds, 3),
    }


def _alignment(tokens: Tokens, tried: Sequence[Alignment], best: Alignment) -> dict[str, Any]:
    by_layer = [best.moved[block] for block in best.blocks]
    return {
        "residual": best.residual,
        "residual_turn": best.rotation_size,
        "tried": {
            each.name: {"distance": 1 - each.pooled.effect, "z": each.pooled.z} for each in tried
        },
        "tokens": {"common": len(tokens.rows[0]), "matched_by": tokens.by},
        "layers": [list(block) for block in best.blocks],
        **{name: float(np.mean([moved[name] for moved in by_layer])) for name in by_layer[0]},
        "by_layer": by_layer,
    }


def _projection(name: str, best: Alignment) -> dict[str, Any]:
    layers = {block: best.agreements[block][name] for block in best.blocks}
    agreements = list(layers.values())
    pooled = pool(([each] for each in agreements), halves=best.in_halves)
    ratios = [each.nf / each.nf_unrelated for each in agreements if np.isfinite(each.nf)]
    return {
        "shape": list(agreements[0].shape),
        "layers": len(agreements),
        "distance": 1 - pooled.effect,
        "effect": pooled.effect,
        "z": pooled.z,
        "p_value": p_value(pooled.log10_p),
        "nf_unrelated": agreements[0].nf_unrelated,
        "nf_ratio_mean": float(np.mean(ratios)) if ratios else float("nan"),
        "by_layer": [_layer(*block, agreement) for block, agreement in layers.items()],
    }


def _layer(reference: int, suspect: int, agreement: Agreement) -> dict[str, Any]:
    return {
        "reference": reference,
        "suspect": suspect,
        "distance": 1 - agreement.effect,
        "trace": agreement.trace,
        "z": agreement.z,
        "p_value": p_value(log10_p(agreement.z)),
        "nf": agreement.nf,
        "nf_ratio": agreement.nf / agreement.nf_unrelated,
    }
