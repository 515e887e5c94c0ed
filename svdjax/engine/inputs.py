"""Opens and validates every pair before anything is computed, and reports all faults at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from svdjax.checkpoint import (
    Checkpoint,
    PairPlan,
    input_digest,
    open_checkpoint,
    plan_pair,
    read_stack,
)
from svdjax.engine.settings import PairSpec
from svdjax.errors import InputError


@dataclass(frozen=True)
class PairJob:
    """A pair that is fit to be computed: what the config said, and the plan."""

    spec: PairSpec
    plan: PairPlan


def open_pairs(
    specs: Iterable[PairSpec], *, split_fused: bool, check: Callable[[], None] = lambda: None
) -> list[PairJob]:
    """Opens all checkpoints (headers only) and plans all pairs.

    Raises:
      InputError: with every fault of every pair, in one line.
    """
    opened: dict[str, Checkpoint | None] = {}
    jobs: list[PairJob] = []
    faults: list[str] = []

    def get(source: str) -> Checkpoint | None:
        if source not in opened:
            check()
            try:
                opened[source] = open_checkpoint(source)
            except InputError as error:
                faults.append(str(error))
                opened[source] = None
        return opened[source]

    for spec in specs:
        base, post = get(spec.base), get(spec.post)
        if base is None or post is None:
            continue
        try:
            jobs.append(PairJob(spec, plan_pair(base, post, split_fused=split_fused)))
        except InputError as error:
            faults.append(f"pair {spec.name}: {error}")
    _raise(faults)
    return jobs


def checkpoints(jobs: Sequence[PairJob]) -> dict[str, Checkpoint]:
    """Every checkpoint of the jobs once, by its source as the config wrote it."""
    found: dict[str, Checkpoint] = {}
    for job in jobs:
        found.setdefault(job.spec.base, job.plan.base)
        found.setdefault(job.spec.post, job.plan.post)
    return found


def digest_inputs(
    jobs: Sequence[PairJob], *, full: bool, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Fingerprints of all input files, by source."""
    digests = {}
    for source, checkpoint in checkpoints(jobs).items():
        check()
        digests[source] = input_digest(checkpoint, full=full)
    return digests


def check_values(
    jobs: Sequence[PairJob],
    *,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Reads every analysed tensor once, a layer at a time, and looks for NaN and Inf.

    Reading is quick beside factorising, and it is better to know before the first hour than after
    the last: a fault found halfway would leave half a result.

    Args:
      jobs: the pairs; a checkpoint that occurs in several is read once.
      check: called between tensors; may raise to stop.
      progress: called with the number of layers looked at, and their total.

    Raises:
      InputError: naming every file and tensor with such values.
    """
    wanted = {}
    for job in jobs:
        for checkpoint in (job.plan.base, job.plan.post):
            for projection in job.plan.projections:
                for layer in range(len(projection.tensors)):
                    key = (str(checkpoint.path), projection.tensors[layer], projection.rows)
                    wanted[key] = (checkpoint, projection, layer)
    faults: list[str] = []
    for done, (checkpoint, projection, layer) in enumerate(wanted.values(), 1):
        check()
        try:
            read_stack(checkpoint, projection, layer, layer + 1)
        except InputError as error:
            faults.append(str(error))
        progress(done, len(wanted))
    _raise(faults)


def _raise(faults: list[str]) -> None:
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
