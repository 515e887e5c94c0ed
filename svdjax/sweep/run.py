"""A sweep: every pair and every stage of a config, into a directory, through any interruption."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax

from svdjax.atomic import plain
from svdjax.construct.variant_builder import FACTORS
from svdjax.engine import devices, inputs
from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.context import Context
from svdjax.engine.progress import Progress
from svdjax.engine.signals import StopRequest
from svdjax.engine.work.unit import Here, Workers, failures
from svdjax.engine.workdir import Workdir
from svdjax.engine.writing import check_writable, writing_to
from svdjax.errors import InputError, Interrupted, WorkersLost
from svdjax.spectra.compute import compile_groups
from svdjax.spectra.results import Comparison
from svdjax.spectra.stage import run_spectra
from svdjax.spectral import get_factorisation
from svdjax.streaming import StreamOptions
from svdjax.sweep.config import SweepConfig, read_config
from svdjax.sweep.outcome import SweepOutcome
from svdjax.sweep.plan import SweepPlan, plan_sweep
from svdjax.sweep.session import for_workers, open_session

_NOT_COMPUTED = ("report", *(field.name for field in dataclasses.fields(StreamOptions)))
_OUTPUTS = ("summary.json", "spectra.npz", "vectors.npz")


class Report(Protocol):
    """Writes the page of the report stage; `svdjax.sweep.pages` is the module that does."""

    def write_report(
        self,
        workdir: pathlib.Path,
        comparisons: Mapping[str, Comparison],
        *,
        papers: Mapping[str, str],
        trajectory: Sequence[str],
        results: Mapping[str, Mapping[str, Any]],
        figures: str,
        check: Callable[[str], None],
    ) -> pathlib.Path:
        """Writes the page of all pairs; see `svdjax.sweep.pages.write_report`."""
        ...


def run_sweep(
    config: Any,
    workdir: str | os.PathLike[str],
    report: Report | None = None,
    *,
    stop: StopRequest | None = None,
    workers: str = "here",
    flag: str = "--workdir",
) -> SweepOutcome:
    """Runs (or continues, or recognises as finished) the sweep of `config` in `workdir`.

    Everything is validated before anything is computed or written. Groups are journaled as they
    finish; a sweep that was killed goes on from the journal and ends with the same numbers.

    Args:
        config: A `ConfigDict`, see `svdjax.options`, or the `SweepConfig` read from one.
        workdir: Made if it does not exist.
        report: Module with `write_report`; None leaves that stage out.
        stop: The caller's entered `StopRequest`; without one, a sweep enters its own.
        workers: Who computes: ``here``, this process over all its devices, or ``ray``, workers of a
            Ray cluster with ``config.devices`` each (one by default); to be called before jax has
            looked for its devices then.
        flag: How the user named `workdir`, for messages.

    Raises:
        InputError: Config, checkpoints or workdir cannot be used.
        Interrupted: SIGTERM or SIGINT; the group in flight was finished and journaled.
        WorkersLost: Workers died of units that are missing now, or there are none.
    """
    if stop is None:
        with StopRequest() as own:
            return run_sweep(config, workdir, report, stop=own, workers=workers, flag=flag)
    sweep = read_config(config)
    get_factorisation(sweep.settings.factorisation)
    place = Workdir(workdir, flag=flag)
    if workers == "ray":
        sweep = for_workers(sweep)
        # The devices are the workers'.
        jax.config.update("jax_platforms", "cpu")
    try:
        with writing_to(place.path), contextlib.ExitStack() as stack:
            return _Sweep(sweep, place, report, stop, stack, remote=workers == "ray").run()
    finally:
        place.close()


class _Sweep:
    """The steps of a sweep, with what they share."""

    def __init__(
        self,
        sweep: SweepConfig,
        place: Workdir,
        report: Report | None,
        stop: StopRequest,
        stack: contextlib.ExitStack,
        *,
        remote: bool,
    ):
        """`stack` closes what is opened on the way; `remote`: others compute."""
        self.sweep, self.place, self.report, self.stop = sweep, place, report, stop
        self.stack, self.remote = stack, remote
        self.compile_queue = stack.enter_context(CompileQueue())
        self.workers: Workers = Here()
        stages = [s for s in sweep.settings.stages if s != "report" or report is not None]
        self.progress = Progress(*stages)
        stack.callback(self.progress.close)
        self.state: dict[str, Any] = {}

    def run(self) -> SweepOutcome:
        if self.place.existed:
            self._take()
        else:
            check_writable(self.place.path, self.place.flag)
        known = self.state.get("inputs", {})
        plan = plan_sweep(self.sweep, digests=known, check=self.stop.check)
        inputs.note_swapped(plan.jobs)
        digests = plan.digests(self.stop.check)
        self._refuse_inputs(digests)
        if self.state.get("status") == "done":
            finished = self._finished()
            if finished is not None:
                return finished
        start = time.perf_counter()
        self.devices = self._open_workers(plan, digests)
        if self._stage("validate").get("status") != "done":
            self._look(plan)
        if not self.place.existed:
            self._take()
            self._refuse_inputs(digests)
        self._begin(digests, time.perf_counter() - start)
        try:
            return self._stages(plan)
        except (Interrupted, WorkersLost):
            self._save(status="stopped")
            raise

    def _open_workers(self, plan: SweepPlan, digests: dict[str, Any]) -> list[str]:
        """Readies who computes; returns the devices in words."""
        if not self.remote:
            return devices.describe(plan.mesh)
        from svdjax.engine.work.ray import RayWorkers

        full = self.sweep.settings.full_hash
        sampled = plan.digests(self.stop.check, full=False) if full else digests
        workers = RayWorkers(
            open_session,
            (self.sweep, plain(digests)),
            {"versions": devices.versions(), "inputs": plain(sampled)},
            devices=self.sweep.settings.devices,
            stop=self.stop,
        )
        self.workers = self.stack.enter_context(workers)
        return workers.open(self.stop.check)

    def _look(self, plan: SweepPlan) -> None:
        """Looks at all matrices, while the programs are compiled."""
        if not self.remote:
            compile_groups(plan.spectra, plan.spectra.groups, plan.mesh, self.compile_queue)
        inputs.check_values(plan.jobs, workers=self.workers, check=self.stop.check)

    def _take(self) -> None:
        """Locks the workdir and refuses one that another config made."""
        self.place.lock()
        self.place.check_places([spec.name for spec in self.sweep.pairs])
        self.state = self.place.state()
        # What is drawn of the same results may differ.
        state = {key: _computed(value) for key, value in self.state.items() if key == "config"}
        resolved = _computed(self.sweep.resolved)
        self.place.refuse_other(state, "config", resolved, "another config")

    def _refuse_inputs(self, digests: dict[str, Any]) -> None:
        self.place.refuse_other(self.state, "inputs", digests, "other input files")

    def _begin(self, digests: dict[str, Any], seconds: float) -> None:
        self.place.clean([spec.name for spec in self.sweep.pairs])
        versions = devices.versions()
        if self.state.get("versions", versions) != versions:
            # Numbers of two versions are never mixed in one result.
            self.state["stages"] = {}
        self.state.setdefault("started", _now())
        self.state |= {
            "name": self.sweep.name,
            "config": self.sweep.resolved,
            "versions": versions,
            "devices": self.devices,
            "inputs": digests,
        }
        validate = self._stage("validate")
        validate["status"] = "done"
        validate["seconds"] = validate.get("seconds", 0.0) + seconds
        self._save(status="running")

    def _stages(self, plan: SweepPlan) -> SweepOutcome:
        spectra = run_spectra(plan.spectra, self._context(plan, "spectra"))
        jobs = [job for job in plan.jobs if job.spec.name in spectra.comparisons]
        results = {
            stage.name: stage.run(
                jobs,
                spectra.comparisons,
                plan.prepared[stage.name],
                self._context(plan, stage.name),
            )
            for stage in plan.stages
        }
        inputs.check_unchanged(plan.jobs)
        if self.workers.failed or len(jobs) < len(plan.jobs):
            raise WorkersLost(
                f"{failures(self.workers.failed)}; all else is done but the report, and the same "
                "command tries these again"
            )
        shutil.rmtree(self.place.path / FACTORS, ignore_errors=True)
        index = None
        if "report" in self.sweep.settings.stages and self.report is not None:
            index = self._write_report(self.report, spectra.comparisons, results)
        self.place.check_there(self._outputs())
        self.state["finished"] = _now()
        self._save(status="done")
        return SweepOutcome(
            workdir=self.place.path,
            comparisons=spectra.comparisons,
            report=index,
            computed=spectra.computed,
            reused=spectra.reused,
            results=results,
        )

    def _context(self, plan: SweepPlan, name: str) -> Context:
        return Context(
            workdir=self.place.path,
            settings=self.sweep.settings,
            identity={"inputs": self.state["inputs"], "versions": self.state["versions"]},
            mesh=plan.mesh,
            entry=self._stage(name),
            save=self._save,
            check=self.stop.check,
            workers=self.workers,
            compile_queue=self.compile_queue,
            progress=self.progress,
        )

    def _write_report(
        self,
        report: Report,
        comparisons: dict[str, Comparison],
        results: Mapping[str, Mapping[str, Any]],
    ) -> pathlib.Path:
        entry, start = self._stage("report"), time.perf_counter()
        self.progress.begin("report", 1, 1)
        page = report.write_report(
            self.place.path,
            comparisons,
            papers={spec.name: spec.paper for spec in self.sweep.pairs if spec.paper},
            trajectory=self.sweep.trajectory,
            results=results,
            figures=self.sweep.settings.report.figures,
            check=self.stop.check,
        )
        entry |= {"status": "done", "seconds": time.perf_counter() - start}
        self.progress.advance(1, "wrote the report")
        return page

    def _finished(self) -> SweepOutcome | None:
        """The outcome of a sweep that is done, or None where some of its files are gone."""
        if not all(path.is_file() for path in self._outputs()):
            return None
        if self.state["config"].get("report") != self.sweep.resolved.get("report"):
            return None
        try:
            return SweepOutcome.load(self.place.path)
        except InputError:
            return None  # damaged like missing: it is made again

    def _outputs(self) -> list[pathlib.Path]:
        """The files without which a sweep is not done."""
        folders = [self.place.path / spec.name for spec in self.sweep.pairs]
        files = [folder / file for folder in folders for file in _OUTPUTS]
        if "report" in self.state["stages"]:
            files += [folder / "report.html" for folder in (self.place.path, *folders)]
        return files

    def _stage(self, name: str) -> dict[str, Any]:
        return self.state.setdefault("stages", {}).setdefault(name, {"status": "pending"})

    def _save(self, status: str | None = None) -> None:
        if status:
            self.state["status"] = status
        self.place.write_state(self.state)


def _computed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config without what changes no number: what is drawn, and how files are read."""
    return {key: value for key, value in config.items() if key not in _NOT_COMPUTED}


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
