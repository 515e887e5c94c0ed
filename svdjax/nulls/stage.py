"""The nulls stage of a sweep: draws for some matrices of each projection, formulas for all.

Draws depend on seed, projection, layer and their number, not on the groups, so that a killed sweep
goes on with the same numbers. Axis legend: `L` layers, `R` rank, `D` draws.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import jax
import numpy as np

from svdjax.checkpoint import PairPlan, digest_of
from svdjax.engine.context import Context
from svdjax.engine.groups import Group, plan_groups
from svdjax.engine.inputs import PairJob
from svdjax.engine.prefetch import prefetch
from svdjax.engine.progress import note
from svdjax.engine.work.journal import UnitJournal
from svdjax.engine.work.unit import Check, Piece, Unit
from svdjax.nulls.analytic import Analytic, analytic_nulls, chosen_layers
from svdjax.nulls.results import NullArrays, NullResults, ProjectionNulls
from svdjax.spectra.compute import ship_group
from svdjax.spectra.results import Comparison, ProjectionResult
from svdjax.spectral import nulls, working_precision
from svdjax.spectral.null_draws import KINDS, draw_nulls
from svdjax.spectral.null_signs import FACTORISATION, framed_change

_JOURNAL = ".nulls"
_DRAWN = tuple(
    f"{key}_{kind}" for kind in KINDS for key in ("nf", "alpha", "spread", "svsm_mean", "svsm_std")
)
Draws = Mapping[str, np.ndarray]
"""Arrays of the sampled layers of a group, with the names of `NullArrays`."""


class Sample(NamedTuple):
    """What is drawn at once: a unit's task.

    Attributes:
        group: Layers of one projection, counted among those that are sampled.
        layers: The same, counted in the model.
    """

    group: Group
    layers: tuple[int, ...]


def run_nulls(
    jobs: Sequence[PairJob], comparisons: Mapping[str, Comparison], context: Context
) -> dict[str, NullResults]:
    """Draws the null models of every pair and judges the pair by them.

    Args:
        jobs: The validated pairs.
        comparisons: Their analyses.
        context: The sweep's.

    Returns:
        The results by pair, in the order of `jobs`.
    """
    work = NullsWork(jobs, comparisons, context)
    with context.journal(_JOURNAL):
        return context.pair_by_pair(jobs, NullResults.load, work, shared=comparisons)


def null_work(shape: tuple[int, int], draws: int) -> float:
    """Floating point operations of sampling one matrix, roughly.

    Values and frame of the change (three products with the long side, two Gram routes), and for
    each draw of all kinds two QRs, three products and three Gram routes of a 2 r x r matrix.
    """
    r, R = min(shape), max(shape)
    return 10 * R * r**2 + 30 * r**3 + draws * 95.0 * r**3


class _Planned(NamedTuple):
    """What is to be drawn for a pair.

    Attributes:
        analytic: Nulls by formula, by projection.
        chosen: The layers that are sampled, by projection.
        units: Groups of them, whether drawn or not.
    """

    analytic: Mapping[str, Analytic]
    chosen: Mapping[str, np.ndarray]
    units: Sequence[Unit]


class NullsWork:
    """Draws for groups of sampled layers; see `svdjax.engine.context.StageWork`."""

    name, reads_ahead = "nulls", True

    def __init__(
        self, jobs: Sequence[PairJob], comparisons: Mapping[str, Comparison], context: Context
    ):
        """Plans nothing yet; the arguments are those of `run_nulls`."""
        self._jobs = {job.spec.name: job for job in jobs}
        self._comparisons, self._context = comparisons, context
        self._journal = UnitJournal(context.workdir / _JOURNAL, _drawn)
        self._planned: dict[str, _Planned] = {}
        self._seconds: dict[str, float] = {}

    def units(self, job: PairJob) -> list[Unit]:
        """The groups of a pair that the journal lacks."""
        pair = job.spec.name
        known = pair in self._planned
        if not known:
            self._planned[pair], self._seconds[pair] = self._plan(job), 0.0
        units = self._planned[pair].units
        missing = [unit for unit in units if unit.key not in self._journal]
        if not known and len(missing) < len(units):
            note(f"nulls of {pair}: reused {len(units) - len(missing)}/{len(units)} groups")
        return missing

    def compute(self, units: Iterable[Unit], check: Check) -> Generator[Piece, None, None]:
        """Yields the draws of each group, and the seconds they took."""
        stream = prefetch(units, self._ship)
        with contextlib.closing(stream):
            for unit, (base, post) in stream:
                pair = unit.task.group.pair
                done, count = self._count(pair)
                check(f"nulls of {pair}: {done} of {count} groups drawn")
                start = time.perf_counter()
                draws = self._draw(unit.task, base, post)
                del base, post
                yield Piece(unit, (draws, time.perf_counter() - start))

    def keep(self, piece: Piece) -> str:
        """Puts the draws of a group into the journal."""
        draws, seconds = piece.value
        self._journal.write(piece.unit.key, draws)
        pair = piece.unit.task.group.pair
        self._seconds[pair] += seconds
        done, count = self._count(pair)
        return f"drew {done}/{count} {_words(piece.unit.task)} ({seconds:.2f} s)"

    def results(self, job: PairJob) -> NullResults:
        """The null models of a pair, judged and saved."""
        pair, options = job.spec.name, self._context.settings.nulls
        analytic, chosen, units = self._planned[pair]
        projections = self._comparisons[pair].projections
        draws: dict[str, list[Draws]] = {name: [] for name in projections}
        for unit in units:
            draws[unit.task.group.projection.name].append(self._journal.read(unit.key))
        rounding = {
            each.name: np.array([_rounding(job.plan, tensor) for tensor in each.tensors])
            for each in job.plan.projections
        }
        arrays = {
            name: _null_arrays(
                each, analytic[name], rounding[name], chosen[name], draws[name], options.draws
            )
            for name, each in projections.items()
        }
        results = NullResults(
            pair=pair,
            settings=asdict(options),
            projections={
                name: ProjectionNulls(name, each.shape, arrays[name])
                for name, each in projections.items()
            },
        )
        cost = results.cost
        note(
            f"nulls of {pair}: {cost['draws']} draws for {cost['matrices']} matrices "
            f"({self._seconds[pair]:.2f} s)"
        )
        results.save(self._context.workdir / pair)
        return results

    def _count(self, pair: str) -> tuple[int, int]:
        """How many groups of a pair are drawn, and how many there are; a worker knows neither."""
        units = self._planned[pair].units if pair in self._planned else ()
        return self._journal.count(unit.key for unit in units), len(units)

    def _plan(self, job: PairJob) -> _Planned:
        settings, pair = self._context.settings, job.spec.name
        options = settings.nulls
        projections = self._comparisons[pair].projections
        analytic = {name: analytic_nulls(each) for name, each in projections.items()}
        chosen = {
            name: chosen_layers(each, options.layers) if options.draws else np.zeros(0, int)
            for name, each in analytic.items()
        }
        sampled = tuple(
            each.of_layers(chosen[each.name])
            for each in job.plan.projections
            if len(chosen[each.name])
        )
        groups = plan_groups(
            pair,
            dataclasses.replace(job.plan, projections=sampled),
            group_bytes=settings.group_bytes,
            devices=self._context.mesh.size,
        )
        samples = [
            Sample(group, tuple(chosen[group.projection.name][group.start : group.stop].tolist()))
            for group in groups
        ]
        units = [
            Unit(
                key=self._key(job, sample),
                label=f"nulls of {_words(sample)}",
                task=sample,
                cost=group.length * null_work(group.projection.shape, options.draws),
                affinity=group.projection.shape,
                program=group.projection.shape,
            )
            for group, sample in zip(groups, samples)
        ]
        return _Planned(analytic, chosen, units)

    def _ship(self, unit: Unit) -> tuple[jax.Array, jax.Array]:
        group = unit.task.group
        return ship_group(group, self._jobs[group.pair].plan, FACTORISATION, self._context.mesh)

    def _draw(self, sample: Sample, base: jax.Array, post: jax.Array) -> Draws:
        group, layers = sample.group, np.array(sample.layers)
        options, name = self._context.settings.nulls, group.projection.name
        filled = np.concatenate([layers, np.repeat(layers[-1:], group.length - len(layers))])
        metrics = self._comparisons[group.pair][name].metrics
        alpha = np.asarray(metrics.alpha_ls, np.float64)[filled]
        tag = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:4], "big")
        seeds = [(options.seed, tag, layer) for layer in filled]
        mesh = self._context.mesh
        with working_precision(FACTORISATION):
            change = framed_change(base, post, alpha, mesh=mesh)
            by_kind = draw_nulls(
                np.asarray(metrics.sigma_base)[filled],
                alpha,
                change,
                np.array(seeds, np.uint32),
                shape=group.projection.shape,
                draws=options.draws,
                mesh=mesh,
            )
            by_kind, values, top_half = jax.device_get((by_kind, change.values, change.top_half))
        arrays = {"sigma_delta": values, "top_half": np.asarray(top_half)[:, None]}
        for drawn in _DRAWN:
            key, _, kind = drawn.rpartition("_")
            arrays[drawn] = getattr(by_kind[kind], key)
        return {key: np.asarray(array)[: len(layers)] for key, array in arrays.items()}

    def _key(self, job: PairJob, sample: Sample) -> str:
        """The digest of what determines the draws of a group."""
        spec, settings, identity = job.spec, self._context.settings, self._context.identity
        group = sample.group
        projection = group.projection
        return digest_of(
            [
                [identity["inputs"][source] for source in (spec.base, spec.post)],
                identity["versions"],
                settings.factorisation,
                [settings.nulls.draws, settings.nulls.seed],
                [projection.name, projection.shape, projection.transposed, projection.rows],
                group.tensors,
                sample.layers,
                group.length,
            ]
        )


def _drawn(arrays: Mapping[str, np.ndarray]) -> Draws:
    return {key: arrays[key] for key in ("sigma_delta", "top_half", *_DRAWN)}


def _words(sample: Sample) -> str:
    """Pair, projection and layers of a group."""
    layers = ", ".join(map(str, sample.layers))
    return f"{sample.group.pair} {sample.group.projection.name} of layers {layers}"


def _rounding(plan: PairPlan, tensor: str) -> float:
    """Relative size of the change that storing a tensor makes, in either checkpoint."""
    names = (side.spec(tensor).dtype.name for side in (plan.base, plan.post))
    return max(nulls.ROUNDING.get(name, 0.0) for name in names)


def _null_arrays(
    projection: ProjectionResult,
    analytic: Analytic,
    rounding: np.ndarray,
    chosen: np.ndarray,
    groups: Sequence[Draws],
    draws: int,
) -> NullArrays:
    """All arrays of a projection, rows of layers that were not sampled NaN."""
    layers, rank = projection.layers, min(projection.shape)

    def rows(name: str, width: int) -> np.ndarray:
        full = np.full((layers, width), np.nan)
        if len(chosen):
            full[chosen] = np.concatenate([group[name] for group in groups])
        return full

    sampled = np.zeros(layers, bool)
    sampled[chosen] = True
    return NullArrays(
        nf=np.asarray(projection.nf, np.float64),
        alpha=projection.statistics.layer_mean,
        spread=projection.statistics.layer_std,
        alpha_ls=np.asarray(projection.metrics.alpha_ls, np.float64),
        delta=analytic.delta,
        rounding=rounding,
        nf_first_order=analytic.first_order,
        nf_all_orders=analytic.all_orders,
        first_order_holds=analytic.first_order_holds,
        all_orders_hold=analytic.all_orders_hold,
        sampled=sampled,
        sigma_delta=rows("sigma_delta", rank),
        top_half=rows("top_half", 1)[:, 0],
        **{name: rows(name, rank if name.startswith("svsm") else draws) for name in _DRAWN},
    )
