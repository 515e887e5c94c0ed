"""A sweep: every pair and every stage of a config, into a directory, through any interruption."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import pathlib
import shutil
import time
from collections.abc import Mapping
from typing import Any, Protocol

import jax

from svdjax.atomic import plain
from svdjax.construct.variant_builder import FACTORS
from svdjax.engine import devices, inputs
from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.context import Context
from svdjax.engine.hosts.hosts import Hosts
from svdjax.engine.hosts.meeting import meet
from svdjax.engine.hosts.request import HostsRequest
from svdjax.engine.progress import note
from svdjax.engine.signals import StopRequest
from svdjax.engine.workdir import Workdir
from svdjax.engine.writing import writing_to
from svdjax.errors import HostLost, InputError, Interrupted
from svdjax.spectra.compute import compile_groups
from svdjax.spectra.results import Comparison
from svdjax.spectra.stage import run_share, run_spectra
from svdjax.spectral import get_factorisation
from svdjax.sweep.config import SweepConfig, read_config
from svdjax.sweep.outcome import SweepOutcome
from svdjax.sweep.plan import SweepPlan, plan_sweep

_PATIENCE = 60.0  # seconds in which process 0's record has to appear (NFS keeps listings)
_OUTPUTS = ("summary.json", "spectra.npz", "vectors.npz")


class Report(Protocol):
    """Writes the pages of the report stage; `svdjax.sweep.pages` is the module that does."""

    def write_pair(
        self,
        comparison: Comparison,
        directory: pathlib.Path,
        *,
        paper: Any = None,
        results: Any = None,
    ) -> pathlib.Path:
        """Writes the page of a pair; returns its path."""
        ...

    def write_index(
        self,
        workdir: pathlib.Path,
        comparisons: Mapping[str, Comparison],
        *,
        papers: Any = None,
        trajectory: Any = (),
        results: Any = None,
    ) -> pathlib.Path:
        """Writes the page of all pairs; returns its path."""
        ...


def run_sweep(
    config: Any,
    workdir: str | os.PathLike[str],
    report: Report | None = None,
    *,
    stop: StopRequest | None = None,
    hosts: HostsRequest | None = None,
) -> SweepOutcome:
    """Runs (or continues, or recognises as finished) the sweep of `config` in `workdir`.

    Everything is validated before anything is computed or written. Groups are journaled as they
    finish; a sweep that was killed goes on from the journal and ends with the same numbers.

    Args:
        config: A `ConfigDict`, see `svdjax.options`, or the `SweepConfig` read from one.
        workdir: Made if it does not exist.
        report: Module with `write_pair` and `write_index`; None leaves that stage out.
        stop: The caller's entered `StopRequest`; without one, a sweep enters its own.
        hosts: The other processes of this sweep, all called with the same config and a workdir that
            they share; to be called before jax has looked for its devices. When one of them dies
            and the group in flight takes long, this process is ended with status 3.

    Raises:
        InputError: Config, checkpoints or workdir cannot be used.
        Interrupted: SIGTERM or SIGINT; the group in flight was finished and journaled.
        HostLost: Another process of the sweep has died.
    """
    if stop is None:
        with StopRequest() as own:
            return run_sweep(config, workdir, report, stop=own, hosts=hosts)
    sweep = read_config(config)
    get_factorisation(sweep.settings.factorisation)
    place = Workdir(workdir)
    about = {
        "config": sweep.resolved,
        "workdir": str(place.path.absolute()),
        "versions": devices.versions(),
    }
    if hosts is not None and hosts.gpus:
        jax.config.update("jax_cuda_visible_devices", hosts.gpus)
        jax.config.update("jax_rocm_visible_devices", hosts.gpus)
    try:
        with (
            meet(hosts, plain(about), stop) as party,
            writing_to(place.path),
            CompileQueue() as compile_queue,
        ):
            process = _Sweep(sweep, place, report, party, compile_queue)
            return process.run() if party.first else process.follow()
    finally:
        place.close()


class _Sweep:
    """The steps of a sweep, with what they share."""

    def __init__(
        self,
        sweep: SweepConfig,
        place: Workdir,
        report: Report | None,
        hosts: Hosts,
        compile_queue: CompileQueue,
    ):
        self.sweep, self.place, self.report, self.hosts = sweep, place, report, hosts
        self.compile_queue = compile_queue
        self.state: dict[str, Any] = {}

    def run(self) -> SweepOutcome:
        if self.place.existed:
            self._take()
        plan = plan_sweep(self.sweep, check=self.hosts.check)
        digests = plan.digests(self.hosts.check)
        self._refuse_inputs(digests)
        if self.state.get("status") == "done":
            finished = self._finished(plan)
            if finished is not None:
                self.hosts.exchange("start", {"devices": [], "finished": True})
                self.hosts.end()
                return finished
        start = time.perf_counter()
        validated = self._stage("validate").get("status") == "done"
        machines = self.hosts.exchange(
            "start",
            {
                "devices": devices.describe(plan.mesh),
                "finished": False,
                "validated": validated,
                "inputs": plain(digests),
            },
        )
        self._refuse_uneven([machine["devices"] for machine in machines])
        self.devices = _all_devices([machine["devices"] for machine in machines])
        if not validated:
            self._look(plan)
        self.hosts.exchange("validated")
        if not self.place.existed:
            self._take()
            self._refuse_inputs(digests)
        self._begin(digests, time.perf_counter() - start)
        self.hosts.exchange("begun", self._stamp())
        try:
            outcome = self._stages(plan)
        except (Interrupted, HostLost):
            self._save(status="stopped")
            raise
        self.hosts.end()
        return outcome

    def follow(self) -> SweepOutcome:
        """Computes the share of the spectra of a process that is not the first."""
        plan = plan_sweep(self.sweep, stages=False, check=self.hosts.check)
        first = self.hosts.exchange("start", {"devices": devices.describe(plan.mesh)})[0]
        computed = 0
        if not first["finished"]:
            if not first["validated"]:
                self._look(plan)
            self.hosts.exchange("validated")
            self._find_workdir(self.hosts.exchange("begun")[0])
            self.state = {"inputs": first["inputs"], "versions": devices.versions()}
            computed = run_share(plan.spectra, self._context(plan, "spectra"))
            inputs.check_unchanged(plan.jobs)
        self.hosts.end()
        return SweepOutcome(
            workdir=self.place.path,
            comparisons={},
            report=None,
            computed=computed,
            was_finished=first["finished"],
            process=self.hosts.index,
        )

    def _look(self, plan: SweepPlan) -> None:
        """Looks at the matrices that this process will compute, while its programs are compiled."""
        groups = plan.spectra.divided(plan.spectra.groups, self.hosts.count)[self.hosts.index]
        compile_groups(plan.spectra, groups, plan.mesh, self.compile_queue)
        among = groups if self.hosts.count > 1 else None
        inputs.check_values(plan.jobs, among=among, check=self.hosts.check)

    def _refuse_uneven(self, machines: list[list[str]]) -> None:
        """Groups are cut for a number of devices, and all processes have to cut alike."""
        for process, machine in enumerate(machines):
            if len(machine) != len(machines[0]):
                raise InputError(
                    f"process {process} has {len(machine)} device(s), process 0 has "
                    f"{len(machines[0])}: expected as many for each; give --config.devices="
                    f"{min(map(len, machines))}"
                )

    def _stamp(self) -> str:
        return hashlib.sha256(self.place.record.read_bytes()).hexdigest()

    def _find_workdir(self, stamp: str) -> None:
        """Makes sure that the workdir here is the one that process 0 has."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            with contextlib.suppress(OSError):
                if self._stamp() == stamp:
                    return
            self.hosts.check("while looking for the workdir of process 0")
            if time.monotonic() > deadline:
                raise InputError(
                    f"{self.place.path} is not the directory that process 0 writes to: give a "
                    "--workdir on a file system that all machines share"
                )
            time.sleep(0.2)

    def _take(self) -> None:
        """Locks the workdir and refuses one that another config made."""
        self.place.lock()
        self.place.check_places([spec.name for spec in self.sweep.pairs])
        self.state = self.place.state()
        self.place.refuse_other(self.state, "config", self.sweep.resolved, "another config")

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
        results = {
            stage.name: stage.run(
                plan.jobs,
                spectra.comparisons,
                plan.prepared[stage.name],
                self._context(plan, stage.name),
            )
            for stage in plan.stages
        }
        shutil.rmtree(self.place.path / FACTORS, ignore_errors=True)
        inputs.check_unchanged(plan.jobs)
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
            save=self._save if self.hosts.first else lambda: None,
            check=self.hosts.check,
            hosts=self.hosts,
            compile_queue=self.compile_queue,
        )

    def _write_report(
        self,
        report: Report,
        comparisons: dict[str, Comparison],
        results: Mapping[str, Mapping[str, Any]],
    ) -> pathlib.Path:
        entry = self._stage("report")
        before, start = entry.get("seconds", 0.0), time.perf_counter()
        entries = entry.setdefault("pairs", {})
        for number, spec in enumerate(self.sweep.pairs, 1):
            self.hosts.check("while writing the report")
            page = self.place.path / spec.name / "report.html"
            if entries.get(spec.name, {}).get("status") == "done" and page.is_file():
                continue
            note(f"drawing {number}/{len(self.sweep.pairs)} {spec.name}")
            began = time.perf_counter()
            report.write_pair(
                comparisons[spec.name],
                self.place.path / spec.name,
                paper=spec.paper or None,
                results={
                    name: pairs[spec.name] for name, pairs in results.items() if spec.name in pairs
                },
            )
            entries[spec.name] = {"status": "done", "seconds": time.perf_counter() - began}
            entry["seconds"] = before + time.perf_counter() - start
            self._save()
        self.hosts.check("before the index of the report")
        note("drawing the index")
        index = report.write_index(
            self.place.path,
            comparisons,
            papers={spec.name: spec.paper for spec in self.sweep.pairs if spec.paper},
            trajectory=self.sweep.trajectory,
            results=results,
        )
        entry |= {"status": "done", "seconds": before + time.perf_counter() - start}
        return index

    def _finished(self, plan: SweepPlan) -> SweepOutcome | None:
        """The outcome of a sweep that is done, or None where some of its files are gone."""
        names = [spec.name for spec in self.sweep.pairs]
        if not all(path.is_file() for path in self._outputs()):
            return None
        index = self.place.path / "report.html" if "report" in self.state["stages"] else None
        try:
            comparisons = {name: Comparison.load(self.place.path / name) for name in names}
            results = {
                stage.name: {
                    name: stage.load(self.place.path / name)
                    for name in stage.pairs(self.sweep.pairs)
                }
                for stage in plan.stages
            }
        except InputError:
            return None  # damaged like missing: it is made again
        return SweepOutcome(
            workdir=self.place.path,
            comparisons=comparisons,
            report=index,
            was_finished=True,
            results=results,
        )

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


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _all_devices(machines: list[list[str]]) -> list[str]:
    """The devices in words, and whose they are where there are several processes."""
    if len(machines) == 1:
        return machines[0]
    return [f"process {k}: {device}" for k, machine in enumerate(machines) for device in machine]
