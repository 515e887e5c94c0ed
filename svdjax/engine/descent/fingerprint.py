"""Holds a suspect against a reference: aligns, measures, decides, writes one file and a page."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from svdjax.atomic import write_json
from svdjax.descent import log10_p, nearest_rotation
from svdjax.engine import devices
from svdjax.engine.descent.candidates import (
    Blocks,
    Candidate,
    Check,
    measure,
    pair_blocks,
    rotations_from_weights,
)
from svdjax.engine.descent.evidence import Found, evidence, sentence
from svdjax.engine.descent.fingerprint_job import FingerprintJob
from svdjax.engine.descent.sides import Pair, Tokens, common_tokens, open_pair, token_product
from svdjax.engine.descent.verdict import decide
from svdjax.engine.progress import note
from svdjax.engine.stop import StopRequest
from svdjax.engine.writing import writing_to
from svdjax.errors import InputError


class Pages(Protocol):
    """What the door hands in to write the page."""

    def write_fingerprint(self, path: pathlib.Path, result: Mapping[str, Any]) -> pathlib.Path: ...


@dataclass(frozen=True)
class FingerprintOutcome:
    """What was found.

    Attributes:
      file: the JSON file; None where nothing was written.
      page: the report; likewise.
      result: the content of the file.
    """

    file: pathlib.Path | None
    page: pathlib.Path | None
    result: Mapping[str, Any]

    def text(self) -> str:
        """A few lines for stdout, with the paths."""
        return "\n".join([sentence(self.result), *(str(p) for p in (self.file, self.page) if p)])


def run_fingerprint(
    job: FingerprintJob, pages: Pages | None = None, *, stop: StopRequest | None = None
) -> FingerprintOutcome:
    """Gives a verdict on descent and writes it to exactly ``job.out``.

    Args:
      job: the two checkpoints and the file.
      pages: module with `write_fingerprint`, for the report beside the file; None writes none.
      stop: the caller's entered `StopRequest`; without one, the run enters its own.

    Raises:
      InputError: a checkpoint cannot be read, the two cannot be compared, or the file not written.
      Interrupted: SIGTERM or SIGINT; nothing is written then.
    """
    if stop is None:
        with StopRequest(resumes=False) as own:
            return run_fingerprint(job, pages, stop=own)
    result = fingerprint(job, check=stop.check)
    file, page = job.file, None
    with writing_to(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)
        if pages is not None:
            page = pages.write_fingerprint(job.page, result)
    return FingerprintOutcome(file, page, result)


def fingerprint(job: FingerprintJob, *, check: Check = lambda where: None) -> dict[str, Any]:
    """The same without files: what `run_fingerprint` writes."""
    begun = time.perf_counter()
    pair = open_pair(job.reference, job.suspect)
    working = pair.reference.config.hidden_size * pair.reference.config.intermediate_size * 8 * 8
    mesh = devices.layer_mesh(job.devices, working)
    blocks = pair_blocks(pair, mesh, check)
    tokens = common_tokens(pair)
    tried = [Candidate("as it is", (None, None))]
    rotation, notes = _from_tokens(pair, tokens)
    if rotation is not None:
        tried.append(Candidate("embeddings", (rotation, rotation)))
    measure(pair, blocks, tried, mesh, check)
    if not _convincing(tried, job):
        note("nothing found so far: looking for a rotation in the weights alone")
        found = rotations_from_weights(pair, blocks, check)
        if found is None:
            notes.append("no rotation was sought in the weights: too few blocks or projections")
        else:
            last = Candidate("weights", found)
            measure(pair, blocks, [last], mesh, check)
            tried.append(last)
    return _conclude(job, pair, blocks, tokens, tried, notes, time.perf_counter() - begun)


def _from_tokens(pair: Pair, tokens: Tokens) -> tuple[np.ndarray | None, list[str]]:
    """Procrustes on the embeddings of common tokens, if there are enough to fix a rotation."""
    count, width = len(tokens.rows[0]), pair.reference.config.hidden_size
    if count < width:
        return None, [
            f"the vocabularies have {count} tokens in common, too few to fix a rotation of "
            f"{width} dimensions: embeddings were not used"
        ]
    return nearest_rotation(token_product(pair, tokens)), []


def _convincing(tried: list[Candidate], job: FingerprintJob) -> bool:
    return any(1 - one.pooled.effect <= job.derived for one in tried)


def _conclude(
    job: FingerprintJob,
    pair: Pair,
    blocks: Blocks,
    tokens: Tokens,
    tried: list[Candidate],
    notes: list[str],
    seconds: float,
) -> dict[str, Any]:
    # NaN, where every matrix is zero, loses against any number.
    best = max(tried, key=lambda one: np.nan_to_num(one.pooled.effect, nan=-np.inf))
    pooled = best.pooled
    if np.isnan(pooled.effect):
        raise InputError(
            f"{pair.reference.checkpoint.path} and {pair.suspect.checkpoint.path} cannot be "
            "compared because all matrices of one of them are zero"
        )
    # The largest of several was taken.
    log10 = min(0.0, log10_p(pooled.z) + float(np.log10(len(tried))))
    verdict = decide(1 - pooled.effect, log10, job.thresholds)
    found = Found(pair, blocks, tokens, tried, best, verdict, log10, job.thresholds, notes, seconds)
    return evidence(found)
