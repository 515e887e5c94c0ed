"""Opens and validates every pair before anything is computed, and reports all faults at once."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Sequence
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
)
from svdjax.checkpoint.digest import hash_file
from svdjax.engine.groups import Group
from svdjax.engine.pairs import PairSpec
from svdjax.errors import InputError


@dataclass(frozen=True)
class PairJob:
    """A pair that is fit to be computed.

    Attributes:
      spec: what the config said.
      plan: what is compared.
      other: the plan of the other post model as base, where the config names one.
    """

    spec: PairSpec
    plan: PairPlan
    other: PairPlan | None = None

    @property
    def sources(self) -> dict[str, Checkpoint]:
        """Its checkpoints, by source as the config wrote it."""
        found = {self.spec.base: self.plan.base, self.spec.post: self.plan.post}
        return found | ({self.spec.other: self.other.base} if self.other else {})


def open_pairs(
    specs: Iterable[PairSpec],
    *,
    split_fused: bool,
    merge_base: str = "",
    check: Callable[[], None] = lambda: None,
) -> list[PairJob]:
    """Opens all checkpoints (headers only) and plans all pairs.

    A LoRA adapter as `post` or `other` is merged into the base of its pair. Where that base is an
    adapter too (a step of the same training) the two share the model below: the base that another
    pair gives one of them, else what the adapter itself names.

    Args:
      specs: the pairs.
      split_fused: analyse the parts of fused projections.
      merge_base: what adapters are merged into, where it is not the base of their pair.
      check: called between checkpoints; may raise to stop.

    Raises:
      InputError: with every fault of every pair, in one line.
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
                opened[source] = open_checkpoint(source, lambda: below(source))
            except InputError as error:
                faults.append(str(error))
                opened[source] = None
        return opened[source]

    def below(source: str) -> Checkpoint | None:
        """What an adapter is merged into; None where no pair says so."""
        bases = [merge_base] if merge_base else []
        for spec in () if merge_base else specs:
            if source in (spec.post, spec.other):
                bases.append(spec.base)
        found: dict[str, Checkpoint] = {}
        for base in dict.fromkeys(bases):
            # Two adapters may be compared both ways round.
            one = None if base in opening and base not in opened else get(base)
            if one is not None:
                found[str(one.base.path if isinstance(one, MergedCheckpoint) else one.path)] = one
            elif base in opened:
                raise InputError(f"{source}: its base {base} cannot be used")
        if len(found) > 1:
            raise InputError(
                f"{source}: a LoRA adapter that pairs give different bases, {' and '.join(found)}; "
                "expected one in a sweep (make two sweeps, or merge it with PEFT first)"
            )
        return next(iter(found.values()), None)

    for spec in specs:
        base, post = get(spec.base), get(spec.post)
        other = get(spec.other) if spec.other else None
        if base is None or post is None or (spec.other and other is None):
            continue
        try:
            plan = plan_pair(base, post, split_fused=split_fused)
            beside = plan_pair(other, post, split_fused=split_fused) if other else None
            jobs.append(PairJob(spec, plan, beside))
        except InputError as error:
            faults.append(f"{spec.label}: {error}")
    _raise(faults)
    return jobs


def checkpoints(jobs: Sequence[PairJob]) -> dict[str, Checkpoint]:
    """Every checkpoint of the jobs once, by its source as the config wrote it."""
    return {source: one for job in jobs for source, one in job.sources.items()}


def digest_inputs(
    jobs: Sequence[PairJob], *, full: bool, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Fingerprints of all input files, by source; of held-out texts by path."""
    digests = {}
    for source, checkpoint in checkpoints(jobs).items():
        check()
        digests[source] = input_digest(checkpoint, full=full)
    for text in dict.fromkeys(job.spec.text for job in jobs if job.spec.text):
        size, whole = hash_file(pathlib.Path(text).expanduser())
        digests[text] = {"size": size, "sha256": whole}
    return digests


def check_unchanged(jobs: Sequence[PairJob]) -> None:
    """Raises `InputError` if a file of the checkpoints has changed since it was first read.

    Every reading looks too; this is for the end, before results are called done.
    """
    for checkpoint in checkpoints(jobs).values():
        checkpoint.check_unchanged()


def check_values(
    jobs: Sequence[PairJob],
    *,
    among: Sequence[Group] | None = None,
    check: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Reads every analysed tensor once, a layer at a time, and looks for NaN and Inf.

    Reading is quick beside factorising, and it is better to know before the first hour than after
    the last: a fault found halfway would leave half a result.

    Args:
      jobs: the pairs; a checkpoint that occurs in several is read once.
      among: look at the matrices of these groups only; other processes look at the rest.
      check: called between tensors; may raise to stop.
      progress: called with the number of layers looked at, and their total.

    Raises:
      InputError: naming every file and tensor with such values.
    """
    mine = None
    if among is not None:
        mine = {
            (group.pair, group.projection.name, layer)
            for group in among
            for layer in range(group.start, group.stop)
        }
    wanted = {}
    for job in jobs:
        for checkpoint in job.sources.values():
            for projection in job.plan.projections:
                for layer in range(len(projection.tensors)):
                    if mine is not None and (job.spec.name, projection.name, layer) not in mine:
                        continue
                    key = (str(checkpoint.path), projection.tensors[layer], projection.rows)
                    wanted[key] = (checkpoint, projection, layer)
    faults: list[str] = []
    for done, (checkpoint, projection, layer) in enumerate(wanted.values(), 1):
        check()
        try:
            check_layer(checkpoint, projection, layer)
        except InputError as error:
            faults.append(str(error))
        progress(done, len(wanted))
    _raise(faults)


def _raise(faults: list[str]) -> None:
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
