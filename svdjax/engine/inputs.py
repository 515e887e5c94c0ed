"""Opening and validation of every pair before anything is computed; all faults at once."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from svdjax.checkpoint import (
    Checkpoint,
    MergedCheckpoint,
    PairPlan,
    check_layer,
    input_digest,
    open_checkpoint,
    plan_pair,
    swapped,
)
from svdjax.checkpoint.digest import file_digest
from svdjax.checkpoint.watched import WatchedFile
from svdjax.engine.pairs import PairSpec
from svdjax.engine.progress import note
from svdjax.engine.work.unit import Check, Here, Piece, Unit, Workers, failures
from svdjax.errors import InputError, WorkersLost

_READINGS = 256
"""Units of reading all matrices, where they are spread over workers."""


@dataclass(frozen=True)
class PairJob:
    """Pair that is valid and planned.

    Attributes:
        spec: Pair as the config names it.
        plan: Plan of base and post.
        other: Plan of the other post model as base and post, where the config names one.
    """

    spec: PairSpec
    plan: PairPlan
    other: PairPlan | None = None

    @property
    def sources(self) -> dict[str, Checkpoint]:
        """Checkpoints of the pair, by source as the config wrote it."""
        sources = {self.spec.base: self.plan.base, self.spec.post: self.plan.post}
        return sources | ({self.spec.other: self.other.base} if self.other else {})


def open_pairs(
    specs: Iterable[PairSpec],
    *,
    split_fused: bool,
    merge_base: str = "",
    check: Callable[[], None] = lambda: None,
) -> list[PairJob]:
    """Opens all checkpoints (headers only) and plans all pairs.

    A LoRA adapter as `post` or `other` is merged into the base of its pair. Where that base is an
    adapter too (a step of the same training) both are merged into one model: the base that another
    pair gives one of them, else the one that the adapter itself names.

    Args:
        specs: Pairs as the config names them.
        split_fused: Whether the parts of fused projections are analysed.
        merge_base: Model that adapters are merged into, where it is not the base of their pair.
        check: Called between checkpoints; may raise to stop.

    Raises:
        InputError: A pair has a fault; the message has all faults of all pairs, in one line.
    """
    specs = tuple(specs)
    opened: dict[str, Checkpoint | None] = {}
    opening: set[str] = set()
    jobs: list[PairJob] = []
    faults: list[str] = []

    def get(source: str) -> Checkpoint | None:
        if source not in opened:
            check()
            opening.add(source)
            try:
                opened[source] = open_checkpoint(source, lambda: adapter_base(source))
            except InputError as error:
                faults.append(str(error))
                opened[source] = None
        return opened[source]

    def adapter_base(source: str) -> Checkpoint | None:
        """Model that an adapter is merged into; None where no pair names one."""
        bases = [spec.base for spec in specs if source in (spec.post, spec.other)]
        models: dict[str, Checkpoint] = {}
        for base in [merge_base] if merge_base else dict.fromkeys(bases):
            # Two adapters may be compared both ways round.
            model = None if base in opening and base not in opened else get(base)
            if model is not None:
                whole = model.base if isinstance(model, MergedCheckpoint) else model
                models[str(whole.path)] = model
            elif base in opened:
                raise InputError(f"{source}: its base {base} cannot be used")
        if len(models) > 1:
            raise InputError(
                f"{source}: a LoRA adapter that pairs give different bases, {' and '.join(models)};"
                " expected one in a sweep (make two sweeps, or merge it with PEFT first)"
            )
        return next(iter(models.values()), None)

    for spec in specs:
        base, post = get(spec.base), get(spec.post)
        other = get(spec.other) if spec.other else None
        if base is None or post is None or (spec.other and other is None):
            continue
        try:
            plan = plan_pair(base, post, split_fused=split_fused)
            other_plan = plan_pair(other, post, split_fused=split_fused) if other else None
            jobs.append(PairJob(spec, plan, other_plan))
        except InputError as error:
            faults.append(f"{spec.label}: {error}")
    _raise(faults)
    return jobs


def note_swapped(jobs: Iterable[PairJob]) -> None:
    """Tells of pairs whose base says that it was trained from post."""
    for job in jobs:
        if why := swapped(job.plan.base, job.plan.post):
            note(why)


def checkpoints(jobs: Sequence[PairJob]) -> dict[str, Checkpoint]:
    """Every checkpoint of the jobs once, by its source as the config wrote it."""
    return {source: checkpoint for job in jobs for source, checkpoint in job.sources.items()}


def digest_inputs(
    jobs: Sequence[PairJob], *, full: bool, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Digests of all input files by source, those of held-out texts by path."""
    digests = {}
    for source, checkpoint in checkpoints(jobs).items():
        check()
        digests[source] = input_digest(checkpoint, full=full)
    for text in dict.fromkeys(job.spec.text for job in jobs if job.spec.text):
        digests[text] = file_digest(WatchedFile(pathlib.Path(text).expanduser()))
    return digests


def check_unchanged(jobs: Sequence[PairJob]) -> None:
    """Raises `InputError` if a file of the checkpoints has changed since it was first read.

    Every reading does so too; this is for the end, before results are complete.
    """
    for checkpoint in checkpoints(jobs).values():
        checkpoint.check_unchanged()


class ValuesWork:
    """What looks for NaN and Inf; see `svdjax.engine.work.unit.Work`. Faults are its results."""

    name, reads_ahead = "validate", True

    def __init__(self, jobs: Sequence[PairJob]):
        """Every layer of the pairs' checkpoints once, also of those that occur in several."""
        layers = {
            (str(checkpoint.path), checkpoint.part(tensor), projection.rows): (
                checkpoint,
                projection,
                layer,
            )
            for job in jobs
            for checkpoint in job.sources.values()
            for projection in job.plan.projections
            for layer, tensor in enumerate(projection.tensors)
        }
        self._layers = list(layers.values())

    def units(self, most: int) -> list[Unit]:
        """At most so many units, each a run of layers."""
        count = len(self._layers)
        cuts = [count * number // most for number in range(most + 1)]
        return [
            Unit(f"{start}:{stop}", f"values {start} to {stop} of {count}", range(start, stop))
            for start, stop in itertools.pairwise(cuts)
            if start < stop
        ]

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Yields the faults of each unit."""
        for unit in units:
            faults = []
            for number in unit.task:
                check("")
                try:
                    check_layer(*self._layers[number])
                except InputError as error:
                    faults.append(str(error))
            yield Piece(unit, faults)


def check_values(
    jobs: Sequence[PairJob],
    *,
    workers: Workers | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Reads every analysed tensor once, a layer at a time, and looks for NaN and Inf.

    Reading is quick beside factorising: a fault is better known before the first hour than halfway
    through, with half a result.

    Args:
        jobs: Pairs; a checkpoint that occurs in several is read once.
        workers: Who reads; None for this process.
        check: Called between tensors; may raise to stop.

    Raises:
        InputError: There are such values; the message names every file and tensor with them.
        WorkersLost: Some could not be read, as workers died of it.
    """
    workers = workers or Here()
    work = ValuesWork(jobs)
    pieces = workers.do(work, work.units(_READINGS if workers.remote else 1), lambda _: check())
    in_order = sorted(pieces, key=lambda piece: piece.unit.task.start)
    _raise([fault for piece in in_order for fault in piece.value])
    if workers.failed:
        raise WorkersLost(f"{failures(workers.failed)}; nothing was computed")


def _raise(faults: list[str]) -> None:
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
