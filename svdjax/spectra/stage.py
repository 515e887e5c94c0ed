"""The spectra stage of a sweep: groups from the journal or computed, then each pair's files."""

from __future__ import annotations

import collections
import pathlib
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import jax

from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.context import Context
from svdjax.engine.groups import Group, plan_groups, side_by_side, total_work
from svdjax.engine.inputs import PairJob
from svdjax.engine.journal import Journal
from svdjax.engine.progress import Progress
from svdjax.engine.shares import shares
from svdjax.errors import InputError
from svdjax.spectra.compute import Computed, collect, compile_groups, compute_groups
from svdjax.spectra.factor_cache import FOLDER as KEPT
from svdjax.spectra.factor_cache import (
    common_sources,
    group_budget,
    kept_for,
    share_sides,
    shared_checkpoints,
)
from svdjax.spectra.results import Comparison
from svdjax.spectral import is_long

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


def run_spectra(
    jobs: Sequence[PairJob],
    stage: Context,
) -> SpectraOutcome:
    """Computes what is missing and writes the files of every pair.

    Where there are several processes, this is what process 0 does: it says what is missing,
    computes its share, and takes that of the others (`run_share`) from the journal.

    Args:
      jobs: the validated pairs.
      stage: see there.
    """
    outcome = SpectraOutcome()
    workdir, settings, entry = stage.workdir, stage.settings, stage.entry
    before, start = entry.get("seconds", 0.0), time.perf_counter()
    entries = entry.setdefault("pairs", {})
    finished: dict[str, Comparison] = {}
    for job in jobs:
        known = _finished_pair(workdir / job.spec.name, entries.get(job.spec.name, {}))
        if known is not None:
            finished[job.spec.name] = known
    open_jobs = [job for job in jobs if job.spec.name not in finished]
    entry["status"] = "running"
    work = _Work(open_jobs, stage)
    known = {group: number for number, group in enumerate(work.groups)}
    stage.hosts.exchange(
        "spectra",
        {
            "pairs": [job.spec.name for job in open_jobs],
            "missing": [known[group] for group in work.missing],
        },
    )
    mine, others = work.share(stage.hosts.index), work.others(stage.hosts.index)
    progress = work.progress(work.reused + mine)
    try:
        _announce(work, len(finished), progress)
        for group in work.reused:
            progress.reused(group)
        outcome.reused, outcome.computed = len(work.reused), len(work.missing)
        stream = work.compute(mine, progress)
        if others:
            # A pair needs groups of every process.
            for _ in stream:
                pass
            progress.log("waiting for the groups of the other processes")
            stage.hosts.exchange("computed")
            for group in others:
                work.fetch(group)
        ready = work.complete((), ()) if others else work.complete(mine, stream)
        for job, seconds in ready:
            name, began = job.spec.name, time.perf_counter()
            missing = sum(group.pair == name for group in work.missing)
            comparison = make_comparison(job, settings, work.pieces(name))
            comparison.save(workdir / name)
            finished[name] = comparison
            entries[name] = {
                "status": "done",
                "seconds": seconds + time.perf_counter() - began,
                "groups": len(work.by_pair[name]),
                "computed": missing,
                "reused": len(work.by_pair[name]) - missing,
            }
            entry["seconds"] = before + time.perf_counter() - start
            stage.save()
            work.journals[name].remove()
        stream.close()
    finally:
        progress.close()
    # Also what a sweep killed between a pair's last files and their journal's end left.
    for folder in (_JOURNAL, KEPT):
        shutil.rmtree(workdir / folder, ignore_errors=True)
    entry |= {"status": "done", "seconds": before + time.perf_counter() - start}
    outcome.comparisons = {job.spec.name: finished[job.spec.name] for job in jobs}
    return outcome


def run_share(jobs: Sequence[PairJob], stage: Context) -> int:
    """What the other processes do: compute a share of what process 0 misses, into the journal.

    Args:
      jobs: the validated pairs.
      stage: see there.

    Returns:
      How many groups that were.
    """
    told = stage.hosts.exchange("spectra")[0]
    work = _Work([job for job in jobs if job.spec.name in told["pairs"]], stage, told["missing"])
    mine = work.share(stage.hosts.index)
    progress = work.progress(mine)
    try:
        for _ in work.compute(mine, progress):
            pass
    finally:
        progress.close()
    if work.others(0):
        stage.hosts.exchange("computed")
    return len(mine)


def plan_spectra(jobs: Sequence[PairJob], settings: Settings, devices: int) -> list[Group]:
    """All groups of all pairs, pair by pair; side by side where they have a checkpoint in common.

    What is known of its matrices is then needed for one group at a time, and little is kept. Of
    each pair long matrices come first: their programs are the soonest made, and while they run
    the others are.
    """
    budget = group_budget(jobs, settings)
    groups = []
    for job in jobs:
        mine = plan_groups(job.spec.name, job.plan, group_bytes=budget, devices=devices)
        groups += sorted(mine, key=lambda group: not is_long(group.projection.shape))
    if common_sources(jobs, settings):
        groups = side_by_side(groups)
    plans = {job.spec.name: job.plan for job in jobs}
    return share_sides(groups, plans, shared_checkpoints(jobs, settings))


def compile_spectra(
    jobs: Sequence[PairJob],
    groups: Sequence[Group],
    settings: Settings,
    mesh: jax.sharding.Mesh,
    ahead: CompileQueue,
) -> None:
    """Has the programs of some groups of the jobs made; whoever needs one waits for it."""
    plans = {job.spec.name: job.plan for job in jobs}
    compile_groups(
        groups, plans, settings, mesh, sources=shared_checkpoints(jobs, settings), ahead=ahead
    )


class _Work:
    """The groups of the open pairs, and which of them the journal already holds."""

    def __init__(
        self, jobs: Sequence[PairJob], stage: Context, missing: Sequence[int] | None = None
    ):
        """`missing`: numbers of the groups that process 0 found missing; None to look."""
        settings, identity = stage.settings, stage.identity
        self.stage, self.jobs = stage, jobs
        self.kept = kept_for(jobs, settings, stage.workdir)
        self.groups = plan_spectra(jobs, settings, stage.mesh.size)
        self.by_pair: dict[str, list[Group]] = {job.spec.name: [] for job in jobs}
        for group in self.groups:
            self.by_pair[group.pair].append(group)
        self.journals: dict[str, Journal] = {}
        self._pieces: dict[Group, Computed] = {}
        for job in jobs:
            name = job.spec.name
            self.journals[name] = Journal(
                stage.workdir / _JOURNAL / name,
                {
                    "base": identity["inputs"][job.spec.base],
                    "post": identity["inputs"][job.spec.post],
                    "versions": identity["versions"],
                    "factorisation": settings.factorisation,
                    "corner": settings.corner,
                    "measure": settings.measure,
                },
                clean=stage.hosts.first,
            )
        if missing is not None:
            self.missing = [self.groups[number] for number in missing]
        else:
            self.missing = [group for group in self.groups if not self._read(group)]
        self.reused = [group for group in self.groups if group in self._pieces]
        hosts = stage.hosts
        self._shares = shares(self.missing, hosts.count, together=bool(self.kept.sources))

    def share(self, process: int) -> list[Group]:
        """What a process has to compute."""
        return self._shares[process]

    def others(self, process: int) -> list[Group]:
        """What the others have to."""
        return [g for k, groups in enumerate(self._shares) for g in groups if k != process]

    def progress(self, groups: Sequence[Group]) -> Progress:
        """Of this process, which is to have these groups."""
        hosts = self.stage.hosts
        process = hosts.index if hosts.count > 1 else None
        return Progress(len(groups), total_work(groups), process=process)

    def compute(
        self, groups: Sequence[Group], progress: Progress
    ) -> Generator[Computed, None, None]:
        """Yields the groups in order, computed, journaled and told."""
        stage = self.stage
        stream = compute_groups(
            groups,
            {job.spec.name: job.plan for job in self.jobs},
            stage.settings,
            stage.mesh,
            ahead=stage.ahead,
            kept=self.kept,
            check=lambda: stage.check(f"{progress.count} of {progress.groups} groups done"),
        )
        for piece in stream:
            self.keep(piece)
            progress.computed(piece.group, piece.seconds)
            yield piece

    def complete(
        self, groups: Sequence[Group], stream: Iterable[Computed]
    ) -> Iterator[tuple[PairJob, float]]:
        """Yields the jobs as they become complete, and the seconds that went into each.

        Args:
          groups: what the stream will give; jobs that need none of them come first.
          stream: pieces as `compute` yields them.
        """
        left = collections.Counter(group.pair for group in groups)
        seconds = dict.fromkeys(self.by_pair, 0.0)
        named = {job.spec.name: job for job in self.jobs}
        yield from ((job, 0.0) for name, job in named.items() if not left[name])
        began = time.perf_counter()
        for piece in stream:
            name = piece.group.pair
            seconds[name] += time.perf_counter() - began
            left[name] -= 1
            if not left[name]:
                yield named[name], seconds[name]
            began = time.perf_counter()

    def fetch(self, group: Group) -> None:
        """Takes a group from the journal that another process has computed.

        Raises:
          InputError: it does not appear there.
        """
        deadline = time.monotonic() + _PATIENCE
        while not self._read(group):
            self.stage.check("while waiting for files of other processes")
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

    def keep(self, piece: Computed) -> None:
        """Journals a computed group."""
        self.journals[piece.group.pair].write(piece.group, piece.metrics)
        if self.stage.hosts.first:
            self._pieces[piece.group] = piece

    def pieces(self, pair: str) -> list[Computed]:
        """All groups of a pair in the plan's order; they are given up here."""
        return [self._pieces.pop(group) for group in self.by_pair[pair]]


def _announce(work: _Work, finished: int, progress: Progress) -> None:
    parts = []
    if finished:
        parts.append(f"{finished} pair(s) already finished")
    if work.reused:
        parts.append(f"reused {len(work.reused)}/{len(work.groups)} groups from the journal")
    if parts:
        progress.log("continuing: " + ", ".join(parts))


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
