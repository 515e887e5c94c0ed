"""What a worker keeps of a sweep: its plan, devices, and a folder of its own in place of a workdir.

Imports no jax: a worker loads this before it has configured its process.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from svdjax.locks import own_folder
from svdjax.sweep.config import SweepConfig

if TYPE_CHECKING:
    from svdjax.engine.work.unit import Work

_FOLDER = "svdjax-worker-"


def for_workers(sweep: SweepConfig) -> SweepConfig:
    """The config with as many devices for each worker as it says, or as its models need."""
    settings = sweep.settings
    least = settings.decoder.tensor_parallel if settings.runs_models else 1
    return dataclasses.replace(
        sweep, settings=dataclasses.replace(settings, devices=settings.devices or least)
    )


def open_session(sweep: SweepConfig, digests: Mapping[str, Any]) -> SweepSession:
    """Opens a sweep's session on a worker; see `SweepSession`."""
    return SweepSession(sweep, digests)


class SweepSession:
    """A sweep on a worker; see `svdjax.engine.work.worker.Session`."""

    def __init__(self, sweep: SweepConfig, digests: Mapping[str, Any]):
        """Opens and plans all that the sweep reads.

        Args:
            sweep: The config, as `for_workers` returns it.
            digests: Of the inputs, as the sweep keys its journals by them.

        Raises:
            InputError: Something cannot be read here, or there are fewer devices than asked for.
        """
        from svdjax.engine.compile_queue import CompileQueue
        from svdjax.sweep.plan import plan_sweep

        self._plan = plan_sweep(sweep, digests=digests)
        self._digests = digests
        self._compile_queue = CompileQueue()
        self._folder = own_folder(_FOLDER)

    def about(self) -> dict[str, Any]:
        """Versions, digests of the inputs, and kind of the devices."""
        from svdjax.atomic import plain
        from svdjax.engine import devices

        mesh = self._plan.mesh
        return {
            "versions": devices.versions(),
            "inputs": plain(self._plan.digests(full=False)),
            "kind of device": mesh.devices.flat[0].device_kind,
            "devices": devices.describe(mesh),
        }

    def close(self) -> None:
        """Removes its folder."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def work(self, stage: str, shared: Any) -> Work:
        """What computes the units of a stage; `shared` is what the stage said it needs."""
        from svdjax.engine import devices
        from svdjax.engine.context import Context
        from svdjax.engine.inputs import ValuesWork
        from svdjax.engine.work.unit import Here
        from svdjax.spectra.stage import SpectraWork
        from svdjax.sweep.stages import stages_of

        plan = self._plan
        if stage == ValuesWork.name:
            return ValuesWork(plan.jobs)
        context = Context(
            workdir=self._folder,
            settings=plan.sweep.settings,
            identity={"inputs": self._digests, "versions": devices.versions()},
            mesh=plan.mesh,
            entry={},
            save=lambda: None,
            check=lambda done="": None,
            workers=Here(),
            compile_queue=self._compile_queue,
        )
        if stage == SpectraWork.name:
            return SpectraWork(plan.spectra, context)
        (capability,) = stages_of([stage])
        return capability.work(plan.jobs, shared, plan.prepared[stage], context)
