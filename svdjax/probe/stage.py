"""The probes stage: every model of every pair reads the same prompts.

A model's probe is journaled under the digest of its weights, prompts and settings, so that a
checkpoint which several pairs share reads once, and a killed sweep redoes the model in flight.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import jax
import numpy as np

from svdjax.checkpoint import digest_of
from svdjax.construct.build import StackBuilder
from svdjax.construct.contract import parameter_count
from svdjax.construct.variant_builder import VariantBuilder, cached_builder
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import note
from svdjax.engine.work.journal import UnitJournal
from svdjax.engine.work.unit import Check, Piece, Unit
from svdjax.evaluate.inputs import EvalInputs
from svdjax.evaluate.targets import TargetModel, target_models
from svdjax.model import decoder_mesh
from svdjax.probe.job import LINEARISED_PASSES
from svdjax.probe.linearised import Linearised, why_not_one_function
from svdjax.probe.measure import ModelProbe, Probes, linearise_model, probe_model
from svdjax.probe.results import ProbeResults
from svdjax.spectra.results import Comparison

_JOURNAL = ".probes"
# Names the unit of a pair that takes two models; no model is called so.
_LINEARISED = "linearised"
# Fig. 4a shows post and replaced; maps of every variant would fill the disk.
_MAPPED = ("post", "base", "replaced", "restoration_V_SA", "ablation_V_SA")


class PairModel(NamedTuple):
    """The model that reads, or `_LINEARISED`: a unit's task."""

    pair: str
    model: str


def run_probes(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    inputs: EvalInputs,
    context: Context,
) -> dict[str, ProbeResults]:
    """Probes the models of every pair; CKA is that with post.

    Args:
        jobs: The validated pairs.
        comparisons: Their analyses, which constructed models need.
        inputs: The prompts.
        context: The sweep's.

    Returns:
        The results by pair, in the order of `jobs`.
    """
    work = ProbesWork(jobs, comparisons, inputs, context)
    with context.journal(_JOURNAL):
        return context.pair_by_pair(jobs, ProbeResults.load, work, shared=comparisons)


class ProbesWork:
    """Models that read the prompts; see `svdjax.engine.context.StageWork`."""

    name, reads_ahead = "probes", False

    def __init__(
        self,
        jobs: Sequence[PairJob],
        comparisons: Mapping[str, Comparison],
        inputs: EvalInputs,
        context: Context,
    ):
        """Makes nothing yet; the arguments are those of `run_probes`."""
        self._jobs = {job.spec.name: job for job in jobs}
        self._comparisons, self._inputs, self._context = comparisons, inputs, context
        self._journal = UnitJournal(context.workdir / _JOURNAL, _from_arrays)
        self._planned: dict[str, list[Unit]] = {}
        self._open: tuple[str, list[TargetModel]] = "", []

    def units(self, job: PairJob) -> list[Unit]:
        """The models of a pair whose probes the journal lacks."""
        pair = job.spec.name
        if pair not in self._planned:
            parameters = parameter_count(job.plan.post)
            self._planned[pair] = [
                Unit(
                    key=self._key(pair, model),
                    label=f"probe of {pair} {model.name}",
                    task=PairModel(pair, model.name),
                    cost=parameters if model.name in ("post", "base") else 2 * parameters,
                    affinity=pair,
                )
                for model in self._models(pair)
            ]
            if self._linearises(pair):
                self._planned[pair].append(
                    Unit(
                        key=self._linearised_key(pair),
                        label=f"linearisation of {pair}",
                        task=PairModel(pair, _LINEARISED),
                        cost=LINEARISED_PASSES * parameters,
                        affinity=pair,
                    )
                )
            there = [unit for unit in self._planned[pair] if unit.key in self._journal]
            for number, unit in enumerate(there, 1):
                note(f"probed {number}/{len(self._planned[pair])} {_words(unit)} already")
        return [unit for unit in self._planned[pair] if unit.key not in self._journal]

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Yields the probe of each model."""
        decoder = self._context.settings.decoder
        for unit in units:
            pair, name = unit.task
            done, count = self._count(pair)
            check(f"probes of {pair}: {done} of {count} done")
            if name == _LINEARISED:
                yield Piece(unit, self._linearise(pair, check).arrays())
                continue
            model = next(model for model in self._models(pair) if model.name == name)
            probe = probe_model(
                f"{pair} {name}",
                model.load(),
                model.reader.config,
                model.reader.prompts,
                mesh=self._mesh,
                positions=self._positions(pair),
                maps=name in _MAPPED,
                dtype=decoder.dtype,
                check=check,
            )
            yield Piece(unit, probe.arrays())

    def keep(self, piece: Piece) -> str:
        """Puts the probe of a model into the journal, for all pairs that have it."""
        self._journal.write(piece.unit.key, piece.value)
        told = ""
        for pair, units in self._planned.items():
            for unit in units:
                if unit.key == piece.unit.key:
                    done, count = self._count(pair)
                    line = f"probed {done}/{count} {_words(unit)}"
                    if unit.task == piece.unit.task:
                        told = f"{line}: {len(self._inputs.prompts)} prompt(s)"
                    else:
                        note(f"{line} already")
        return told

    def results(self, job: PairJob) -> ProbeResults:
        """The probes of a pair, compared and saved."""
        pair, settings = job.spec.name, self._context.settings
        models, options = self._models(pair), settings.probes
        probes = Probes(options.kind)
        linearised: dict[str, np.ndarray] = {}
        for unit in self._planned[pair]:
            value = self._journal.read(unit.key)
            if isinstance(value, Linearised):
                linearised = value.arrays()
            else:
                probes.add(unit.task.model, value)
        decoder = {k: v for k, v in asdict(settings.decoder).items() if k != "devices"}
        notes = [reader.note for reader in self._inputs.readers[pair].values()]
        if options.linearised and (why := self._why_not_linearised(pair)):
            notes.append(f"base is not linearised towards post: {why}")
        results = ProbeResults(
            pair=pair,
            prompts=options.prompts,
            count=len(self._inputs.prompts),
            positions=self._positions(pair),
            settings=asdict(options) | decoder,
            titles={model.name: model.title for model in models},
            entropy=probes.entropy,
            cka=probes.cka,
            maps=probes.maps,
            linearised=linearised,
            notes=list(dict.fromkeys(filter(None, notes))),
        )
        results.save(self._context.workdir / pair)
        return results

    def _linearise(self, pair: str, check: Check) -> Linearised:
        post, base = self._models(pair)[:2]
        return linearise_model(
            f"{pair} post",
            base.load(),
            post.load(),
            post.reader.config,
            post.reader.prompts,
            mesh=self._mesh,
            check=check,
        )

    def _linearises(self, pair: str) -> bool:
        """Whether a pair's base is linearised towards its post."""
        return self._context.settings.probes.linearised and not self._why_not_linearised(pair)

    def _why_not_linearised(self, pair: str) -> str:
        base, post = (self._inputs.readers[pair][side] for side in ("base", "post"))
        return why_not_one_function(base.config, post.config, base.chat, post.chat, post.prompts)

    @functools.cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        settings = self._context.settings
        return decoder_mesh(settings.devices, settings.decoder.tensor_parallel)

    def _models(self, pair: str) -> list[TargetModel]:
        """The models of a pair; the weights that are kept are those of the last one asked for."""
        if self._open[0] != pair:
            self._open = "", []
            variants = VariantBuilder(
                self._jobs[pair], self._comparisons[pair], self._stacks, self._context
            )
            self._open = pair, target_models(variants, self._inputs, self._context)
        return self._open[1]

    @functools.cached_property
    def _stacks(self) -> StackBuilder:
        return cached_builder(self._context)

    def _count(self, pair: str) -> tuple[int, int]:
        """How many models of a pair are done, and how many there are; a worker knows neither."""
        units = self._planned.get(pair, [])
        return self._journal.count(unit.key for unit in units), len(units)

    def _positions(self, pair: str) -> int:
        """Leading positions that all prompts of a pair have."""
        readers = self._inputs.readers[pair].values()
        return min(len(prompt) for reader in readers for prompt in reader.prompts)

    def _key(self, pair: str, model: TargetModel) -> str:
        """The digest of what determines the probe of a model."""
        decoder = asdict(self._context.settings.decoder)
        mapped = model.name in _MAPPED
        return digest_of(
            [model.weights, model.reader.prompts, self._positions(pair), mapped, decoder]
        )

    def _linearised_key(self, pair: str) -> str:
        """The digest of what determines a pair's linearisation."""
        post, base = self._models(pair)[:2]
        split = self._context.settings.decoder.tensor_parallel
        return digest_of([_LINEARISED, post.weights, base.weights, post.reader.prompts, split])


def _from_arrays(arrays: Mapping[str, np.ndarray]) -> ModelProbe | Linearised:
    """What a unit made, whose arrays these are."""
    kind = Linearised if "parts" in arrays else ModelProbe
    return kind.from_arrays(arrays)


def _words(unit: Unit) -> str:
    """Pair and model of a unit."""
    return f"{unit.task.pair} {unit.task.model}"
