"""Context of a stage: what the sweep hands to it, and how it goes from pair to pair."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import jax

from svdjax.atomic import remove_leftovers
from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import Progress
from svdjax.engine.work.unit import Check, Piece, Unit, Work, Workers
from svdjax.errors import InputError

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings

Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)


class StageWork(Work, Protocol[Made]):
    """The units of a stage that goes from pair to pair, and what is made of their results."""

    def units(self, job: PairJob) -> Sequence[Unit]:
        """The units of a pair whose results the journal lacks."""
        ...

    def keep(self, piece: Piece) -> str:
        """Puts a piece into the journal; returns what is to be told of it, empty for nothing."""
        ...

    def results(self, job: PairJob) -> Made:
        """The results of a pair, out of the journal; leaves them in the pair's directory."""
        ...


class WithoutUnits(Generic[Result]):
    """The work of a stage with nothing worth dividing, which this process does; see `StageWork`."""

    name, reads_ahead = "", False

    def __init__(self, make: Callable[[PairJob], Result]):
        """`make`: makes the results of a pair, and leaves them in its directory."""
        self.results = make

    def units(self, job: PairJob) -> Sequence[Unit]:
        """None."""
        del job
        return ()

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Nothing."""
        del units, check
        return iter(())

    def keep(self, piece: Piece) -> str:
        """Nothing."""
        del piece
        return ""


@dataclass(frozen=True)
class Context:
    """Everything the sweep hands to a stage.

    Attributes:
        workdir: Locked, clean.
        settings: How to compute.
        identity: Digests of the inputs by source, and versions; they key the journal.
        mesh: The devices.
        entry: This stage's entry in sweep.json, kept up to date.
        save: Writes sweep.json.
        check: Raises if a stop was requested.
        workers: Who computes.
        compile_queue: Compiles what will be needed.
        progress: Of the sweep.
    """

    workdir: pathlib.Path
    settings: Settings
    identity: Mapping[str, Any]
    mesh: jax.sharding.Mesh
    entry: dict[str, Any]
    save: Callable[[], None]
    check: Callable[[str], None]
    workers: Workers
    compile_queue: CompileQueue
    progress: Progress = field(default_factory=Progress)

    @contextlib.contextmanager
    def journal(self, name: str) -> Iterator[pathlib.Path]:
        """A directory of the workdir for what is kept until the stage is done.

        It stays where the stage is interrupted: the next run goes on from it. Temporary files that
        a killed run left in it are removed.
        """
        directory = self.workdir / name
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers([directory])
        yield directory
        if not self.workers.failed:
            shutil.rmtree(directory, ignore_errors=True)

    def pair_by_pair(
        self,
        jobs: Sequence[PairJob],
        load: Callable[[pathlib.Path], Result],
        work: StageWork[Result],
        shared: Any = None,
    ) -> dict[str, Result]:
        """Does what the stage does to every pair; what an earlier run finished is only read.

        This process does pair after pair. Other workers are given the units of all pairs at once.

        Args:
            jobs: The pairs.
            load: Reads the results from a pair's directory; raises `InputError` where they are
                missing or damaged, and they are made again.
            work: Makes them.
            shared: What workers need beside their units.

        Returns:
            Results by pair, in the order of `jobs`, but for pairs that workers could not complete.
        """
        before, start = self.entry.get("seconds", 0.0), time.perf_counter()
        self.entry["status"] = "running"
        entries = self.entry.setdefault("pairs", {})
        results: dict[str, Result] = {}
        left: list[PairJob] = []
        for job in jobs:
            if entries.get(job.spec.name, {}).get("status") == "done":
                with contextlib.suppress(InputError):
                    results[job.spec.name] = load(self.workdir / job.spec.name)
                    continue
            left.append(job)
        units = _once(unit for job in left for unit in work.units(job))
        cost = sum(unit.cost for unit in units)
        self.progress.begin(work.name, len(units), cost, workers=self.workers.count)
        if self.workers.remote:
            self._fill(work, units, shared)
        for job in left:
            began, units = time.perf_counter(), work.units(job)
            if self.workers.remote and units:
                continue
            self._fill(work, units, shared)
            results[job.spec.name] = work.results(job)
            seconds = time.perf_counter() - began
            entries[job.spec.name] = {"status": "done", "seconds": seconds}
            self.entry["seconds"] = before + time.perf_counter() - start
            self.save()
        done = all(job.spec.name in results for job in left)
        self.entry["status"] = "done" if done else "stopped"
        self.entry["seconds"] = before + time.perf_counter() - start
        return {job.spec.name: results[job.spec.name] for job in jobs if job.spec.name in results}

    def _fill(self, work: StageWork[Any], units: Iterable[Unit], shared: Any) -> None:
        for piece in self.workers.do(work, _once(units), self.check, shared):
            unit, told = piece.unit, work.keep(piece)
            work_done = unit.cost * piece.share
            self.progress.advance(work_done, told, last=piece.last, program=unit.program)


def _once(units: Iterable[Unit]) -> list[Unit]:
    """The first unit of every key."""
    once: dict[str, Unit] = {}
    for unit in units:
        once.setdefault(unit.key, unit)
    return list(once.values())
