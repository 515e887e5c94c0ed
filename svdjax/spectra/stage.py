"""The spectra stage of a sweep: groups from the journal or computed, then each pair's files."""

from __future__ import annotations

import collections
import contextlib
import pathlib
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from svdjax.engine.context import Context
from svdjax.engine.groups import Group, total_work
from svdjax.engine.inputs import PairJob
from svdjax.engine.journal import Journal
from svdjax.engine.progress import note
from svdjax.engine.work.unit import Check, Piece, Unit
from svdjax.errors import InputError
from svdjax.spectra.compute import Computed, collect, compile_groups, compute_groups
from svdjax.spectra.factor_cache import FOLDER as STATES
from svdjax.spectra.plan import SpectraPlan
from svdjax.spectra.results import Comparison

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings

_JOURNAL = ".journal"


@dataclass
class SpectraOutcome:
    """Results by pair, and how many groups this run computed or found in the journal."""

    comparisons: dict[str, Comparison] = field(default_factory=dict)
    computed: int = 0
    reused: int = 0


def run_spectra(plan: SpectraPlan, context: Context) -> SpectraOutcome:
    """Computes what is missing and writes the files of every pair.

    Args:
        plan: Of all pairs; the groups of those that are finished are left out.
        context: Of the stage.

    Returns:
        Results of all pairs, but for those that workers could not complete.
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
    run = _Run(plan, context, [job for job in plan.jobs if job.spec.name not in finished])
    reused, missing = run.journaled()
    groups = reused + missing
    progress, count = context.progress, context.workers.count
    progress.begin("spectra", len(groups), total_work(groups), workers=count)
    parts = []
    if finished:
        parts.append(f"{len(finished)} pair(s) already finished")
    if reused:
        parts.append(f"reused {len(reused)}/{len(groups)} groups from the journal")
    if parts:
        note("continuing: " + ", ".join(parts))
    for group in reused:
        progress.reused(group)
    outcome.reused, outcome.computed = len(reused), len(missing)
    stream = run.compute(missing)
    for job, seconds in run.complete(missing, stream):
        name, began = job.spec.name, time.perf_counter()
        groups = plan.of_pair(name)
        computed = sum(group.pair == name for group in missing)
        comparison = make_comparison(job, settings, run.pieces(groups))
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
        run.journals[name].remove()
    stream.close()
    done = len(finished) == len(plan.jobs)
    if done:
        # Also what a sweep killed between a pair's last files and their journal's end left.
        for folder in (_JOURNAL, STATES):
            shutil.rmtree(workdir / folder, ignore_errors=True)
    entry["status"] = "done" if done else "stopped"
    entry["seconds"] = before + time.perf_counter() - start
    outcome.comparisons = {
        job.spec.name: finished[job.spec.name] for job in plan.jobs if job.spec.name in finished
    }
    return outcome


class SpectraWork:
    """What computes units of groups (`SpectraPlan.units`); see `svdjax.engine.work.unit.Work`."""

    name, reads_ahead = "spectra", True

    def __init__(self, plan: SpectraPlan, context: Context):
        """Keeps the states of shared matrices, in the context's directory where that is needed."""
        self._plan, self._context = plan, context
        self._cache = plan.factor_cache(context.workdir)

    def compute(self, units: Iterable[Unit], check: Check) -> Generator[Piece, None, None]:
        """Yields the groups in order, computed."""
        taken = deque[Unit]()

        def batches() -> Iterator[Sequence[Group]]:
            for unit in units:
                taken.append(unit)
                yield unit.task

        stream = compute_groups(
            self._plan,
            batches(),
            self._context.mesh,
            compile_queue=self._context.compile_queue,
            cache=self._cache,
            check=lambda: check(""),
        )
        with contextlib.closing(stream):
            for computed in stream:
                last = computed.group == taken[0].task[-1]
                yield Piece(taken.popleft() if last else taken[0], computed, last)


class _Run:
    """The groups of the open pairs: journals, and what was read from or computed into them."""

    def __init__(self, plan: SpectraPlan, context: Context, jobs: Sequence[PairJob]):
        """`jobs`: the open pairs."""
        settings, identity = context.settings, context.identity
        self.plan, self.context, self.jobs = plan, context, jobs
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
            )
            for job in jobs
        }

    def journaled(self) -> tuple[list[Group], list[Group]]:
        """The groups of the open pairs that the journals hold, and those that they lack."""
        groups = [group for group in self.plan.groups if group.pair in self.journals]
        missing = [group for group in groups if not self._read(group)]
        return [group for group in groups if group in self._pieces], missing

    def compute(self, groups: Sequence[Group]) -> Generator[Computed, None, None]:
        """Yields the groups as they come, computed, journaled and told."""
        plan, context, progress = self.plan, self.context, self.context.progress
        units = plan.units(groups)
        if not context.workers.remote:
            compile_groups(plan, groups, context.mesh, context.compile_queue)

        def check(_: str) -> None:
            context.check(f"{progress.count} of {progress.total} groups done")

        for piece in context.workers.do(SpectraWork(plan, context), units, check):
            computed = piece.value
            self.journals[computed.group.pair].write(computed.group, computed.metrics)
            self._pieces[computed.group] = computed
            programs = tuple(plan.programs([computed.group]))
            progress.computed(computed.group, computed.seconds, programs)
            yield computed

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
    results, projections = collect(pieces), job.plan.projections
    return Comparison(
        pair=job.spec.name,
        base=job.spec.base,
        post=job.spec.post,
        family=job.plan.family,
        coverage=job.plan.coverage,
        projections={one.name: results[one.name] for one in projections},
        options={
            "factorisation": settings.factorisation,
            "corner": settings.corner,
            "measure": settings.measure,
            "split_fused": settings.split_fused,
            **({"experts": settings.experts} if any(p.experts for p in projections) else {}),
        },
    )
