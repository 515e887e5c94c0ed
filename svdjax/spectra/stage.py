"""The spectra stage of a sweep: groups from the journal or computed, then each pair's files."""

from __future__ import annotations

import collections
import pathlib
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from svdjax.engine.context import Context
from svdjax.engine.groups import Group, total_work
from svdjax.engine.inputs import PairJob
from svdjax.engine.journal import Journal
from svdjax.engine.progress import Progress
from svdjax.errors import InputError
from svdjax.spectra.compute import Computed, collect, compute_groups
from svdjax.spectra.factor_cache import FOLDER as STATES
from svdjax.spectra.plan import SpectraPlan
from svdjax.spectra.results import Comparison

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings

_JOURNAL = ".journal"
_PATIENCE = 60.0  # seconds in which files of other machines have to appear (NFS keeps listings)


@dataclass
class SpectraOutcome:
    """Results by pair, and how many groups this run computed or found in the journal."""

    comparisons: dict[str, Comparison] = field(default_factory=dict)
    computed: int = 0
    reused: int = 0


def run_spectra(plan: SpectraPlan, context: Context) -> SpectraOutcome:
    """Computes what is missing and writes the files of every pair.

    Where there are several processes, this is what process 0 does: it says what is missing,
    computes its share, and takes that of the others (`run_share`) from the journal.

    Args:
        plan: Of all pairs; the groups of those that are finished are left out.
        context: Of the stage.
    """
    outcome = SpectraOutcome()
    workdir, settings, entry = context.workdir, context.settings, context.entry
    before, start = entry.get("seconds", 0.0), time.perf_counter()
    entries = entry.setdefault("pairs", {})
    finished: dict[str, Comparison] = {}
    for job in plan.jobs:
        comparison = _finished_pair(workdir / job.spec.name, entries.get(job.spec.name, {}))
        if comparison is not None:
            finished[job.spec.name] = comparison
    entry["status"] = "running"
    work = _Work(plan, context, [job for job in plan.jobs if job.spec.name not in finished])
    reused, missing = work.journaled()
    numbers = {group: number for number, group in enumerate(plan.groups)}
    context.hosts.exchange("spectra", [numbers[group] for group in missing])
    own, *rest = plan.divided(missing, context.hosts.count)
    others = [group for share in rest for group in share]
    progress = work.progress(reused + own)
    try:
        parts = []
        if finished:
            parts.append(f"{len(finished)} pair(s) already finished")
        if reused:
            total = len(reused) + len(missing)
            parts.append(f"reused {len(reused)}/{total} groups from the journal")
        if parts:
            progress.log("continuing: " + ", ".join(parts))
        for group in reused:
            progress.reused(group)
        outcome.reused, outcome.computed = len(reused), len(missing)
        stream = work.compute(own, progress)
        if others:
            # A pair needs groups of every process.
            for _ in stream:
                pass
            progress.log("waiting for the groups of the other processes")
            context.hosts.exchange("computed")
            for group in others:
                work.fetch(group)
        ready = work.complete((), ()) if others else work.complete(own, stream)
        for job, seconds in ready:
            name, began = job.spec.name, time.perf_counter()
            groups = plan.of_pair(name)
            computed = sum(group.pair == name for group in missing)
            comparison = make_comparison(job, settings, work.pieces(groups))
            comparison.save(workdir / name)
            finished[name] = comparison
            entries[name] = {
                "status": "done",
                "seconds": seconds + time.perf_counter() - began,
                "groups": len(groups),
                "computed": computed,
                "reused": len(groups) - computed,
            }
            entry["seconds"] = before + time.perf_counter() - start
            context.save()
            work.journals[name].remove()
        stream.close()
    finally:
        progress.close()
    # Also what a sweep killed between a pair's last files and their journal's end left.
    for folder in (_JOURNAL, STATES):
        shutil.rmtree(workdir / folder, ignore_errors=True)
    entry |= {"status": "done", "seconds": before + time.perf_counter() - start}
    outcome.comparisons = {job.spec.name: finished[job.spec.name] for job in plan.jobs}
    return outcome


def run_share(plan: SpectraPlan, context: Context) -> int:
    """Computes another process's share of what process 0 misses, into the journal.

    Args:
        plan: Of all pairs.
        context: Of the stage.

    Returns:
        How many groups that were.
    """
    numbers = context.hosts.exchange("spectra")[0]
    first, *rest = plan.divided([plan.groups[number] for number in numbers], context.hosts.count)
    own = rest[context.hosts.index - 1]
    pairs = {group.pair for group in own}
    work = _Work(plan, context, [job for job in plan.jobs if job.spec.name in pairs])
    progress = work.progress(own)
    try:
        for _ in work.compute(own, progress):
            pass
    finally:
        progress.close()
    if len(first) < len(numbers):
        context.hosts.exchange("computed")
    return len(own)


class _Work:
    """The groups of the open pairs: journals, and what was read from or computed into them."""

    def __init__(self, plan: SpectraPlan, context: Context, jobs: Sequence[PairJob]):
        """`jobs`: the open pairs."""
        settings, identity = context.settings, context.identity
        self.plan, self.context, self.jobs = plan, context, jobs
        self.cache = plan.factor_cache(context.workdir)
        self._pieces: dict[Group, Computed] = {}
        self.journals = {
            job.spec.name: Journal(
                context.workdir / _JOURNAL / job.spec.name,
                {
                    "base": identity["inputs"][job.spec.base],
                    "post": identity["inputs"][job.spec.post],
                    "versions": identity["versions"],
                    "factorisation": settings.factorisation,
                    "corner": settings.corner,
                    "measure": settings.measure,
                },
                clean=context.hosts.first,
            )
            for job in jobs
        }

    def journaled(self) -> tuple[list[Group], list[Group]]:
        """The groups of the open pairs that the journals hold, and those that they lack."""
        groups = [group for group in self.plan.groups if group.pair in self.journals]
        missing = [group for group in groups if not self._read(group)]
        return [group for group in groups if group in self._pieces], missing

    def progress(self, groups: Sequence[Group]) -> Progress:
        """Progress of this process over the groups that it is to have."""
        hosts = self.context.hosts
        process = hosts.index if hosts.count > 1 else None
        return Progress(len(groups), total_work(groups), process=process)

    def compute(
        self, groups: Sequence[Group], progress: Progress
    ) -> Generator[Computed, None, None]:
        """Yields the groups in order, computed, journaled and told."""
        context = self.context
        stream = compute_groups(
            self.plan,
            groups,
            context.mesh,
            compile_queue=context.compile_queue,
            cache=self.cache,
            check=lambda: context.check(f"{progress.count} of {progress.groups} groups done"),
        )
        for piece in stream:
            self.journals[piece.group.pair].write(piece.group, piece.metrics)
            if context.hosts.first:
                self._pieces[piece.group] = piece
            progress.computed(piece.group, piece.seconds)
            yield piece

    def complete(
        self, groups: Sequence[Group], stream: Iterable[Computed]
    ) -> Iterator[tuple[PairJob, float]]:
        """Yields the jobs as they become complete, and the seconds that went into each.

        Args:
            groups: What the stream will give; jobs that need none of them come first.
            stream: Pieces as `compute` yields them.
        """
        left = collections.Counter(group.pair for group in groups)
        seconds = dict.fromkeys(self.journals, 0.0)
        jobs = {job.spec.name: job for job in self.jobs}
        yield from ((job, 0.0) for name, job in jobs.items() if not left[name])
        began = time.perf_counter()
        for piece in stream:
            name = piece.group.pair
            seconds[name] += time.perf_counter() - began
            left[name] -= 1
            if not left[name]:
                yield jobs[name], seconds[name]
            began = time.perf_counter()

    def fetch(self, group: Group) -> None:
        """Takes a group from the journal that another process has computed.

        Raises:
            InputError: It does not appear there.
        """
        deadline = time.monotonic() + _PATIENCE
        while not self._read(group):
            self.context.check("while waiting for files of other processes")
            if time.monotonic() > deadline:
                raise InputError(
                    f"{group.pair} {group.label}: another process has computed it, and it is not "
                    f"in {self.journals[group.pair].directory}: give a workdir on a file system "
                    "that all machines share"
                )
            time.sleep(0.2)

    def _read(self, group: Group) -> bool:
        metrics = self.journals[group.pair].read(group)
        if metrics is not None:
            self._pieces[group] = Computed(group, metrics, 0.0)
        return metrics is not None

    def pieces(self, groups: Sequence[Group]) -> list[Computed]:
        """Results of some groups, which are given up here."""
        return [self._pieces.pop(group) for group in groups]


def _finished_pair(directory: pathlib.Path, entry: dict[str, Any]) -> Comparison | None:
    if entry.get("status") != "done":
        return None
    try:
        return Comparison.load(directory)
    except InputError:
        return None


def make_comparison(job: PairJob, settings: Settings, pieces: Sequence[Computed]) -> Comparison:
    """Joins the groups of a pair into its `Comparison`."""
    results = collect(pieces)
    return Comparison(
        pair=job.spec.name,
        base=job.spec.base,
        post=job.spec.post,
        family=job.plan.family,
        coverage=job.plan.coverage,
        projections={one.name: results[one.name] for one in job.plan.projections},
        options={
            "factorisation": settings.factorisation,
            "corner": settings.corner,
            "measure": settings.measure,
            "split_fused": settings.split_fused,
        },
    )
