"""The constructions stage: every constructed model of a pair, one after the other, in memory.

Beside each variant stand its controls (`svdjax.construct.controls`). A variant is built group
by group out of factors that are computed once per checkpoint and kept in a cache on disk, and is
judged, where the pair names held-out text, by the decoder: which takes the memory of two such
models as they are stored, and of two in float32 (spread over the devices). Finished models are
journaled; a sweep that was killed redoes the one in flight.

A model is a unit of work, and so is the original's loss. Workers keep factors in the directory that
``config.factor_cache`` names, if all of them see it, and then compute each once before the first
model; without it each keeps those that it needs in a folder of its own, and computes them itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from svdjax.atomic import remove_leftovers
from svdjax.checkpoint import digest_of
from svdjax.construct.heldout import Heldout
from svdjax.construct.pair_variants import JOURNAL, PairVariants
from svdjax.construct.recipes import Variant
from svdjax.construct.results import ConstructionResults, VariantResult
from svdjax.construct.variant_builder import VariantBuilder, cached_builder, variant_of
from svdjax.engine.context import Context
from svdjax.engine.groups import Group
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import note
from svdjax.engine.work.unit import Check, Here, Piece, Unit
from svdjax.spectra.compute import padded_stack
from svdjax.spectra.results import Comparison


def run_variants(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    heldout: Mapping[str, Heldout],
    context: Context,
) -> dict[str, ConstructionResults]:
    """Makes and judges the variants of every pair that is to be constructed.

    Args:
        jobs: The validated pairs.
        comparisons: Their analyses; alpha' and the singular values of base come from them.
        heldout: Held-out text by pair, where there is one.
        context: The stage's.

    Returns:
        The results by pair, in the order of `jobs`.
    """
    constructed = [job for job in jobs if job.spec.constructed]
    with context.journal(JOURNAL) as journal:
        folders = [journal / job.spec.name for job in constructed]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folders)
        work = VariantsWork(constructed, comparisons, heldout, context)
        if context.workers.remote:
            entries = context.entry.get("pairs", {})
            done = {name for name, entry in entries.items() if entry.get("status") == "done"}
            units = work.factor_units(job for job in constructed if job.spec.name not in done)
            for _ in context.workers.do(work, units, context.check, comparisons):
                pass
        if context.workers.remote and context.settings.save_variants and constructed:
            note("constructions are made by this process, which saves them (config.save_variants)")
            context = dataclasses.replace(context, workers=Here())
            work = VariantsWork(constructed, comparisons, heldout, context)
        return context.pair_by_pair(constructed, ConstructionResults.load, work, shared=comparisons)


class _Task(NamedTuple):
    """A model of a pair; without a name its original's loss."""

    pair: str
    model: str = ""


class _FactorTask(NamedTuple):
    """Layers of a checkpoint, whose factors are to be in the cache."""

    source: str
    group: Group


class VariantsWork:
    """What computes the models of pairs; see `svdjax.engine.context.StageWork`.

    A pair's text and weights, and how far its variants moved their matrices, are kept until a unit
    of another pair comes.
    """

    name, reads_ahead = "constructions", False

    def __init__(
        self,
        jobs: Sequence[PairJob],
        comparisons: Mapping[str, Comparison],
        heldout: Mapping[str, Heldout],
        context: Context,
    ):
        """Arguments as of `run_variants`; of the jobs only those that are to be constructed."""
        self._jobs = {job.spec.name: job for job in jobs}
        self._comparisons, self._heldout, self._context = comparisons, heldout, context
        self._stacks = cached_builder(context)
        self._made: dict[str, int] = {}

    def units(self, job: PairJob) -> list[Unit]:
        """The models of a pair that the journal lacks, each before its controls."""
        name, pair = job.spec.name, self._pair(job.spec.name)
        missing = pair.missing()
        self._made[name] = len(pair.models) - len(missing)
        units = [
            Unit(
                key=f"{name} {model.name} {pair.key(model)}",
                label=f"constructions of {name}: {model.name}",
                task=_Task(name, model.name),
                cost=pair.cost(model),
                affinity=(name, variant_of(model).name),
                program=(variant_of(model).recipe.kind, getattr(model, "kind", "")),
            )
            for model in missing
        ]
        if pair.heldout is not None and pair.models and pair.read_loss() is None:
            key = f"{name} original {pair.original_key()}"
            label = f"constructions of {name}: loss of {job.spec.post}"
            units.append(Unit(key, label, _Task(name), pair.cost(None), (name, "")))
        return units

    def factor_units(self, jobs: Iterable[PairJob]) -> list[Unit]:
        """Factors that models which the journal lacks are built of, each once.

        None where workers share no cache, and no more than it holds.
        """
        settings, inputs = self._context.settings, self._context.identity["inputs"]
        if not settings.factor_cache:
            return []
        units: dict[str, Unit] = {}
        room = settings.factor_cache_bytes
        for job in jobs:
            pair, variants = self._pair(job.spec.name), dict[str, Variant]()
            for model in pair.missing():
                if isinstance(model, Variant) or model.variant:
                    variants[variant_of(model).name] = variant_of(model)
            for variant in variants.values():
                for source, group in pair.builder.factored(variant):
                    key = digest_of([inputs[source], group.tensors, group.length])
                    size = 8 * group.length * min(group.projection.shape)
                    size *= sum(group.projection.shape) + 1
                    if key in units or size > room:
                        continue
                    room -= size
                    label = f"factors of {source}: {group.label}"
                    units[key] = Unit(key, label, _FactorTask(source, group), group.work)
        return list(units.values())

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Yields the result of each model, the original's loss, nothing of factors."""
        pair: PairVariants | None = None
        for unit in units:
            task = unit.task
            if isinstance(task, _FactorTask):
                check(unit.label)
                checkpoint = self._jobs[task.group.pair].sources[task.source]
                self._stacks.cache_factors(padded_stack(checkpoint, task.group))
                yield Piece(unit, None)
                continue
            if pair is None or pair.name != task.pair:
                pair = None  # before the weights of the next one are read
                pair = self._pair(task.pair)
            done = self._done(pair)
            check(done)
            if task.model:
                model = pair.models[task.model]
                yield Piece(unit, pair.make(model, functools.partial(check, done)))
            else:
                yield Piece(unit, pair.original_loss())

    def keep(self, piece: Piece) -> str:
        """Journals a model or the original's loss."""
        task, value = piece.unit.task, piece.value
        pair = self._pair(task.pair)
        if not task.model:
            pair.write_loss(value)
            return ""
        pair.write(pair.models[task.model], value)
        self._made[task.pair] += 1
        place = f"{self._made[task.pair]}/{len(pair.models)} {task.pair} {task.model}"
        return f"constructed {place} ({value.seconds:.2f} s; {_summary(value)})"

    def results(self, job: PairJob) -> ConstructionResults:
        """The models of a pair out of the journal, saved."""
        results = self._pair(job.spec.name).results()
        results.save(self._context.workdir / job.spec.name)
        return results

    def _pair(self, name: str) -> PairVariants:
        return PairVariants(
            VariantBuilder(self._jobs[name], self._comparisons[name], self._stacks, self._context),
            self._heldout.get(name),
            self._context,
        )

    def _done(self, pair: PairVariants) -> str:
        """How far a pair is, where this process counts."""
        text, made = f"constructions of {pair.name}", self._made.get(pair.name)
        return text if made is None else f"{text}: {made} of {len(pair.models)} done"


def _summary(result: VariantResult) -> str:
    text = f"changed by {100 * result.change:.3g} %"
    if math.isfinite(result.loss):
        text += f", loss {result.loss:.4g}, KL {result.kl:.3g}"
    return text
