"""The plan of a sweep: made once, told by the dry run, carried out by the sweep."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from svdjax.checkpoint.hub import Streaming
from svdjax.engine import devices, inputs
from svdjax.engine.cost import START_SECONDS, Rates
from svdjax.engine.groups import side_bytes, working_bytes
from svdjax.engine.inputs import PairJob
from svdjax.engine.stages import Forecast, SharedInputs, Stage
from svdjax.spectra.plan import SpectraPlan, plan_spectra
from svdjax.sweep.config import SweepConfig
from svdjax.sweep.stages import stages_of

_PAGE_SECONDS, _PAIR_SECONDS = 0.5, 0.3
_PAIR_FIGURES, _INDEX_FIGURES = 5, 4  # and one for each projection


@dataclass(frozen=True)
class SweepPlan:
    """Everything a sweep does, in order.

    Attributes:
        sweep: The config.
        mesh: The devices.
        spectra: Pairs, their groups in order, what they share.
        stages: That come after the spectra.
        inputs: Pairs and settings, and what several stages read.
        prepared: What each stage read and checked, by name.
    """

    sweep: SweepConfig
    mesh: jax.sharding.Mesh
    spectra: SpectraPlan
    stages: tuple[Stage, ...]
    inputs: SharedInputs
    prepared: dict[str, Any]

    @property
    def jobs(self) -> tuple[PairJob, ...]:
        """The validated pairs."""
        return self.spectra.jobs

    def digests(
        self, check: Callable[[], None] = lambda: None, *, full: bool | None = None
    ) -> dict[str, Any]:
        """Fingerprints of all that is read, by source or leaf of the config.

        Args:
            check: Called between checkpoints; may raise to stop.
            full: Whether every byte counts; None for what the config says.
        """
        full = self.sweep.settings.full_hash if full is None else full
        digests = inputs.digest_inputs(self.jobs, full=full, check=check)
        for stage in self.stages:
            digests |= stage.digests(self.prepared[stage.name])
        return digests

    def forecasts(self, rates: Rates, figure_seconds: float) -> dict[str, Forecast]:
        """Forecasts by stage, in order, of start and validation too.

        Args:
            rates: Of one device, all of them at work.
            figure_seconds: Of drawing a figure; 0 where none are drawn.
        """
        rates = rates.together(self.mesh.size)
        stages = {
            stage.name: stage.forecast(self.inputs, self.prepared[stage.name], rates)
            for stage in self.stages
        }
        found = {
            "start": Forecast([], START_SECONDS * rates.host),
            "validate": Forecast([], self._bytes() / rates.read),
            "spectra": self.spectra.forecast(rates),
            **stages,
        }
        if "report" in self.sweep.settings.stages:
            pages = (_PAGE_SECONDS + _PAIR_SECONDS * len(self.jobs)) * rates.host
            drawn = self._figures() * figure_seconds if figure_seconds else 0.0
            found["report"] = Forecast([], pages + drawn)
        return found

    def _bytes(self) -> int:
        """Bytes of all analysed matrices, each once."""
        sides = {
            (str(side.path), one.name): len(one.tensors) * side_bytes(side, one)
            for job in self.jobs
            for side in job.sources.values()
            for one in job.plan.projections
        }
        return sum(sides.values())

    def _figures(self) -> int:
        """Number of figures of the pairs and of the sweep."""
        from svdjax.report.panels import MOST_PANELS

        count = _INDEX_FIGURES
        for job in self.jobs:
            count += _PAIR_FIGURES + min(len(job.plan.projections), MOST_PANELS)
        specs = [job.spec for job in self.jobs]
        return count + sum(stage.figures * len(stage.pairs(specs)) for stage in self.stages)


def plan_sweep(
    sweep: SweepConfig,
    *,
    digests: Mapping[str, Any] = types.MappingProxyType({}),
    check: Callable[[], None] = lambda: None,
) -> SweepPlan:
    """Opens and checks all that a sweep reads, headers only, and plans it.

    Args:
        sweep: The config.
        digests: Of the inputs of the sweep that is gone on with, whose commits of the hub are read.
        check: Called between checkpoints; may raise to stop.

    Raises:
        InputError: With every fault of every pair, or there are fewer devices than asked for.
    """
    settings = sweep.settings
    jobs = inputs.open_pairs(
        sweep.pairs,
        split_fused=settings.split_fused,
        experts=settings.expert_count,
        streaming=Streaming.of(settings, digests, check),
        check=check,
    )
    shared = SharedInputs(jobs, settings)
    after = tuple(stages_of(settings.stages))
    prepared = {stage.name: stage.prepare(shared) for stage in after}
    mesh = devices.layer_mesh(settings.devices, working_bytes(job.plan for job in jobs))
    spectra = plan_spectra(jobs, settings, mesh.size)
    return SweepPlan(sweep, mesh, spectra, after, shared, prepared)
