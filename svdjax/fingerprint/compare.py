"""The comparison of one suspect with one reference: alignments, measurement, verdict."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from svdjax.engine import devices
from svdjax.engine.progress import note
from svdjax.errors import InputError
from svdjax.fingerprint.alignment import (
    AS_IT_IS,
    BY_EMBEDDINGS,
    BY_WEIGHTS,
    Alignment,
    BlockComparison,
    Check,
)
from svdjax.fingerprint.embeddings import EmbeddingSums, read_embeddings
from svdjax.fingerprint.layer import feed_forward_width
from svdjax.fingerprint.pair import Pair
from svdjax.fingerprint.parts import Part, judge_parts, of_layers, related
from svdjax.fingerprint.result import content
from svdjax.fingerprint.rotation import rotations_from_weights
from svdjax.fingerprint.statistic import log10_p
from svdjax.fingerprint.verdict import Thresholds, decide, overall


def compare_pair(pair: Pair, thresholds: Thresholds, limit: int, check: Check) -> dict[str, Any]:
    """The common origin of two checkpoints, as the JSON file has it.

    Tries the residual streams as they are and rotated by the embeddings, blocks by number; blocks
    in any order where some part is not related so; a rotation found in the weights where nothing
    is.

    Args:
        pair: The two models.
        thresholds: Distances and p-value at which the verdict changes.
        limit: Devices to factorise on; 0 takes all.
        check: Called between blocks; may raise to stop.

    Raises:
        InputError: All matrices of one model are zero, or a tensor holds NaN or Inf.
    """
    begun = time.perf_counter()
    width = pair.reference.config.hidden_size
    inner = feed_forward_width(pair.reference.config)
    blocks = BlockComparison(pair, devices.layer_mesh(limit, width * inner * 8 * 8), check)
    embeddings = read_embeddings(pair)
    tried, notes = _first_alignments(blocks, embeddings)
    blocks.measure(tried)
    _, parts = _best(tried, embeddings, thresholds)
    layers = of_layers(parts)
    all_related = bool(layers) and len(related(layers)) == len(layers)
    if not all_related and blocks.blocks_by_number() is not None:
        order = blocks.blocks_by_spectra()
        if any(a != b for a, b in order):
            note("some blocks are not related by number: trying another order of the blocks")
            # Pairs of blocks that are measured already are shared with the first alignments.
            reordered = [dataclasses.replace(each, blocks=order) for each in tried]
            blocks.measure(reordered)
            tried += reordered
            _, parts = _best(tried, embeddings, thresholds)
    if not related(of_layers(parts)):
        note("nothing is related so far: looking for a rotation in the weights alone")
        order = tried[-1].blocks
        rotations = rotations_from_weights(pair, order, check)
        if rotations is None:
            notes.append("no rotation was sought in the weights: too few blocks or projections")
        else:
            tried.append(Alignment(BY_WEIGHTS, rotations, order))
            blocks.measure(tried[-1:])
    best, parts = _best(tried, embeddings, thresholds)
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
        pair,
        embeddings.tokens,
        tried,
        best,
        parts,
        verdict=overall(
            whole,
            [part.verdict for part in of_layers(parts)],
            [part.verdict for part in parts if part.suspect is None],
        ),
        log10_p=log10,
        thresholds=thresholds,
        notes=notes,
        seconds=time.perf_counter() - begun,
    )


def _first_alignments(
    blocks: BlockComparison, embeddings: EmbeddingSums
) -> tuple[list[Alignment], list[str]]:
    """Alignments as it is, and by orthogonal Procrustes on common tokens if they are enough."""
    order = blocks.blocks_by_number()
    if order is None:
        note("the depths differ: matching blocks by their singular values")
        order = blocks.blocks_by_spectra()
    as_it_is = Alignment(AS_IT_IS, (None, None), order)
    width, count = len(embeddings.product[0]), len(embeddings.tokens.rows[0])
    if count < width:
        return [as_it_is], [
            f"the vocabularies have {count} tokens in common, too few to fix a rotation of "
            f"{width} dimensions: embeddings were not used to find one"
        ]
    rotation = embeddings.rotation()
    return [as_it_is, Alignment(BY_EMBEDDINGS, (rotation, rotation), order)], []


def _best(
    tried: Sequence[Alignment], embeddings: EmbeddingSums, thresholds: Thresholds
) -> tuple[Alignment, list[Part]]:
    """The alignment under which most parts are related; of several, the largest effect counts."""
    judged = [(each, judge_parts(each, embeddings, thresholds, len(tried))) for each in tried]

    def rank(judgement: tuple[Alignment, list[Part]]) -> tuple[int, int, float]:
        alignment, parts = judgement
        shared = related(parts)
        # NaN, where every matrix is zero, loses against any number.
        effect = float(np.nan_to_num(alignment.pooled.effect, nan=-np.inf))
        return len(of_layers(shared)), len(shared), effect

    return max(judged, key=rank)
