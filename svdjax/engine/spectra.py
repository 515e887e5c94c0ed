"""The spectra stage of a sweep: groups from the journal or computed, then each pair's files."""

from __future__ import annotations

import pathlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from svdjax.engine.compute import Computed, collect, compute_groups
from svdjax.engine.groups import Group, plan_groups, total_work
from svdjax.engine.halves import HALVES, kept_halves
from svdjax.engine.inputs import PairJob
from svdjax.engine.journal import Journal
from svdjax.engine.progress import Progress
from svdjax.engine.results import Comparison
from svdjax.engine.settings import Settings
from svdjax.engine.stage import Stage
from svdjax.errors import InputError

_JOURNAL = ".journal"


@dataclass
class SpectraOutcome:
    """Results by pair, and how many groups this run computed or found in the journal."""

    comparisons: dict[str, Comparison] = field(default_factory=dict)
    computed: int = 0
    reused: int = 0


def run_spectra(
    jobs: Sequence[PairJob],
    stage: Stage,
) -> SpectraOutcome:
    """Computes what is missing and writes the files of every pair.

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
    progress = Progress(len(work.groups), total_work(work.groups))
    try:
        _announce(work, len(finished), progress)
        for group in work.reused:
            progress.reused(group)
        outcome.reused = len(work.reused)
        stream = compute_groups(
            work.missing,
            {job.spec.name: job.plan for job in open_jobs},
            factorisation=settings.factorisation,
            corner=settings.corner,
            measure=settings.measure,
            mesh=stage.mesh,
            halves=work.halves,
            check=lambda: stage.check(f"{progress.count} of {len(work.groups)} groups done"),
        )
        for job in open_jobs:
            name, began = job.spec.name, time.perf_counter()
            missing = sum(group.pair == name for group in work.missing)
            for _ in range(missing):
                piece = next(stream)
                work.keep(piece)
                progress.computed(piece.group, piece.seconds)
                outcome.computed += 1
            comparison = make_comparison(job, settings, work.pieces(name))
            comparison.save(workdir / name)
            finished[name] = comparison
            entries[name] = {
                "status": "done",
                "seconds": time.perf_counter() - began,
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
    for folder in (_JOURNAL, HALVES):
        shutil.rmtree(workdir / folder, ignore_errors=True)
    entry |= {"status": "done", "seconds": before + time.perf_counter() - start}
    outcome.comparisons = {job.spec.name: finished[job.spec.name] for job in jobs}
    return outcome


class _Work:
    """The groups of the open pairs, and which of them the journal already holds."""

    def __init__(self, jobs: Sequence[PairJob], stage: Stage):
        settings, identity = stage.settings, stage.identity
        self.halves = kept_halves(jobs, settings, stage.workdir)
        # Halves in float64 take four times what square matrices in bf16 do.
        budget = settings.group_bytes // (1 if self.halves is None else 4)
        self.by_pair: dict[str, list[Group]] = {}
        self.journals: dict[str, Journal] = {}
        self._pieces: dict[Group, Computed] = {}
        for job in jobs:
            name = job.spec.name
            self.by_pair[name] = plan_groups(
                name, job.plan, group_bytes=budget, devices=stage.mesh.size
            )
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
            )
            for group in self.by_pair[name]:
                metrics = self.journals[name].read(group)
                if metrics is not None:
                    self._pieces[group] = Computed(group, metrics, 0.0)
        self.groups = [group for groups in self.by_pair.values() for group in groups]
        self.reused = [group for group in self.groups if group in self._pieces]
        self.missing = [group for group in self.groups if group not in self._pieces]

    def keep(self, piece: Computed) -> None:
        """Journals a computed group."""
        self.journals[piece.group.pair].write(piece.group, piece.metrics)
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
    return Comparison(
        pair=job.spec.name,
        base=job.spec.base,
        post=job.spec.post,
        family=job.plan.family,
        coverage=job.plan.coverage,
        projections=collect(pieces),
        options={
            "factorisation": settings.factorisation,
            "corner": settings.corner,
            "measure": settings.measure,
            "split_fused": settings.split_fused,
        },
    )
