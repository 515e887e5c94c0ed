"""Holds one suspect against one reference: aligns, measures and decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from svdjax.engine import devices
from svdjax.engine.progress import note
from svdjax.errors import InputError
from svdjax.fingerprint.candidates import (
    AS_IT_IS,
    BY_EMBEDDINGS,
    BY_WEIGHTS,
    BlockComparison,
    Candidate,
    Check,
    rotations_from_weights,
)
from svdjax.fingerprint.ends import Ends, read_ends
from svdjax.fingerprint.evidence import Evidence, content
from svdjax.fingerprint.parts import Part, judge_parts, related
from svdjax.fingerprint.sides import Pair
from svdjax.fingerprint.statistic import log10_p
from svdjax.fingerprint.training import shared_training
from svdjax.fingerprint.verdict import RELATED, Thresholds, decide, overall


def compare_pair(pair: Pair, thresholds: Thresholds, limit: int, check: Check) -> dict[str, Any]:
    """What two checkpoints have in common, as the JSON file has it.

    Tries the residual streams as they are and rotated by the embeddings, blocks by number; blocks
    in any order where some part is not related so; a rotation found in the weights where nothing
    is.

    Args:
      pair: the two sides.
      thresholds: where the words change.
      limit: devices to factorise on; 0 takes all.
      check: called between blocks; may raise to stop.

    Raises:
      InputError: all matrices of one side are zero, or a tensor holds NaN or Inf.
    """
    begun = time.perf_counter()
    width, inner = pair.reference.config.hidden_size, pair.reference.config.intermediate_size
    blocks = BlockComparison(pair, devices.layer_mesh(limit, width * inner * 8 * 8), check)
    ends = read_ends(pair)
    tried, notes = _first_candidates(blocks, ends)
    blocks.measure(tried)
    _, parts = _best(tried, ends, thresholds)
    if not _all_layers_related(parts) and blocks.blocks_by_number() is not None:
        order = blocks.blocks_by_spectra()
        if any(here != there for here, there in order):
            note("some blocks are not related by number: trying another order of the blocks")
            tried += blocks.reordered(tried, order)
            _, parts = _best(tried, ends, thresholds)
    if not any(part.suspect is not None for part in related(parts)):
        note("nothing is related so far: looking for a rotation in the weights alone")
        order = tried[-1].blocks
        rotations = rotations_from_weights(pair, order, check)
        if rotations is None:
            notes.append("no rotation was sought in the weights: too few blocks or projections")
        else:
            last = Candidate(BY_WEIGHTS, rotations, order)
            blocks.measure([last])
            tried.append(last)
    best, parts = _best(tried, ends, thresholds)
    pooled = best.pooled
    if np.isnan(pooled.effect):
        raise InputError(
            f"{pair.reference.checkpoint.path} and {pair.suspect.checkpoint.path} cannot be "
            "compared because all matrices of one of them are zero"
        )
    # The largest of several was taken.
    log10 = min(0.0, log10_p(pooled.z) + float(np.log10(len(tried))))
    whole = decide(1 - pooled.effect, log10, thresholds)
    return content(
        Evidence(
            pair=pair,
            tokens=ends.tokens,
            tried=tried,
            best=best,
            parts=parts,
            verdict=overall(
                whole,
                [part.verdict for part in parts if part.suspect is not None],
                [part.verdict for part in parts if part.suspect is None],
            ),
            log10_p=log10,
            thresholds=thresholds,
            training=shared_training(best, parts),
            notes=notes,
            seconds=time.perf_counter() - begun,
        )
    )


def _first_candidates(blocks: BlockComparison, ends: Ends) -> tuple[list[Candidate], list[str]]:
    """As it is, and by orthogonal Procrustes on common tokens if there are enough of them."""
    order = blocks.blocks_by_number()
    if order is None:
        note("the depths differ: matching blocks by their singular values")
        order = blocks.blocks_by_spectra()
    tried = [Candidate(AS_IT_IS, (None, None), order)]
    width, count = len(ends.product[0]), len(ends.tokens.rows[0])
    if count < width:
        return tried, [
            f"the vocabularies have {count} tokens in common, too few to fix a rotation of "
            f"{width} dimensions: embeddings were not used to find one"
        ]
    rotation = ends.rotation()
    return [*tried, Candidate(BY_EMBEDDINGS, (rotation, rotation), order)], []


def _best(
    tried: Sequence[Candidate], ends: Ends, thresholds: Thresholds
) -> tuple[Candidate, list[Part]]:
    """The alignment under which most parts are related; of several, the largest effect counts."""
    judged = [(each, judge_parts(each, ends, thresholds, len(tried))) for each in tried]

    def rank(judgement: tuple[Candidate, list[Part]]) -> tuple[int, int, float]:
        candidate, parts = judgement
        shared = related(parts)
        layers = sum(part.suspect is not None for part in shared)
        # NaN, where every matrix is zero, loses against any number.
        effect = float(np.nan_to_num(candidate.pooled.effect, nan=-np.inf))
        return layers, len(shared), effect

    return max(judged, key=rank)


def _all_layers_related(parts: Sequence[Part]) -> bool:
    layers = [part for part in parts if part.suspect is not None]
    return bool(layers) and all(part.verdict == RELATED for part in layers)
