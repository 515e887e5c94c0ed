"""The nulls stage of a sweep: draws for some matrices of each projection, formulas for all.

Draws depend on seed, projection, layer and their number, not on the groups, so that a killed sweep
goes on with the same numbers. Axis legend: `L` layers, `R` rank, `D` draws.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import pathlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import jax
import numpy as np

from svdjax.atomic import read_npz, write_npz
from svdjax.checkpoint import digest_of
from svdjax.engine.context import Context
from svdjax.engine.groups import Group, plan_groups
from svdjax.engine.inputs import PairJob
from svdjax.engine.prefetch import prefetch
from svdjax.engine.progress import note
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
    with context.journal(_JOURNAL) as journal:

        def make(job: PairJob) -> NullResults:
            results = _Pair(job, comparisons[job.spec.name], context, journal).results()
            results.save(context.workdir / job.spec.name)
            return results

        return context.pair_by_pair(jobs, NullResults.load, make)


def null_work(shape: tuple[int, int], draws: int) -> float:
    """Floating point operations of sampling one matrix, roughly.

    Values and frame of the change (three products with the long side, two Gram routes), and for
    each draw of all kinds two QRs, three products and three Gram routes of a 2 r x r matrix.
    """
    r, R = min(shape), max(shape)
    return 10 * R * r**2 + 30 * r**3 + draws * 95.0 * r**3


@dataclass
class _Pair:
    """The work on one pair."""

    job: PairJob
    comparison: Comparison
    context: Context
    journal: pathlib.Path

    def results(self) -> NullResults:
        options, start = self.context.settings.nulls, time.perf_counter()
        projections = self.comparison.projections
        analytic = {name: analytic_nulls(each) for name, each in projections.items()}
        chosen = {
            name: chosen_layers(each, options.layers) if options.draws else np.zeros(0, int)
            for name, each in analytic.items()
        }
        draws = self._all_draws(chosen)
        rounding = {
            each.name: np.array([self._rounding(tensor) for tensor in each.tensors])
            for each in self.job.plan.projections
        }
        arrays = {
            name: _null_arrays(
                each, analytic[name], rounding[name], chosen[name], draws[name], options.draws
            )
            for name, each in projections.items()
        }
        results = NullResults(
            pair=self.job.spec.name,
            settings=asdict(options),
            projections={
                name: ProjectionNulls(name, each.shape, arrays[name])
                for name, each in projections.items()
            },
        )
        cost = results.cost
        note(
            f"nulls of {results.pair}: {cost['draws']} draws for {cost['matrices']} matrices "
            f"({time.perf_counter() - start:.2f} s)"
        )
        return results

    def _all_draws(self, chosen: Mapping[str, np.ndarray]) -> dict[str, list[Draws]]:
        """Draws of the chosen layers of every projection, group by group."""
        plan, pair = self.job.plan, self.job.spec.name
        sampled = tuple(
            dataclasses.replace(each, tensors=tuple(each.tensors[i] for i in chosen[each.name]))
            for each in plan.projections
            if len(chosen[each.name])
        )
        groups = plan_groups(
            pair,
            dataclasses.replace(plan, projections=sampled),
            group_bytes=self.context.settings.group_bytes,
            devices=self.context.mesh.size,
        )
        draws: dict[Group, Draws] = {}
        for group in groups:
            with contextlib.suppress(OSError, ValueError, KeyError):
                arrays = read_npz(self._path(group, chosen))
                draws[group] = {key: arrays[key] for key in ("sigma_delta", "top_half", *_DRAWN)}
        if draws:
            note(f"nulls of {pair}: reused {len(draws)}/{len(groups)} groups")
        stream = prefetch(
            [group for group in groups if group not in draws],
            lambda group: ship_group(group, plan, FACTORISATION, self.context.mesh),
            lambda: self.context.check(
                f"nulls of {pair}: {len(draws)} of {len(groups)} groups drawn"
            ),
        )
        for group, (base, post) in stream:
            start = time.perf_counter()
            draws[group] = self._draw(group, base, post, chosen)
            del base, post
            write_npz(self._path(group, chosen), draws[group])
            layers = ", ".join(map(str, chosen[group.projection.name][group.start : group.stop]))
            note(
                f"drew {len(draws)}/{len(groups)} {group.pair} {group.projection.name} of layers "
                f"{layers} ({time.perf_counter() - start:.2f} s)"
            )
        by_projection: dict[str, list[Draws]] = {name: [] for name in chosen}
        for group in groups:
            by_projection[group.projection.name].append(draws[group])
        return by_projection

    def _draw(
        self, group: Group, base: jax.Array, post: jax.Array, chosen: Mapping[str, np.ndarray]
    ) -> Draws:
        options, name = self.context.settings.nulls, group.projection.name
        layers = chosen[name][group.start : group.stop]
        filled = np.concatenate([layers, np.repeat(layers[-1:], group.length - len(layers))])
        metrics = self.comparison[name].metrics
        alpha = np.asarray(metrics.alpha_ls, np.float64)[filled]
        tag = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:4], "big")
        seeds = [(options.seed, tag, layer) for layer in filled]
        mesh = self.context.mesh
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

    def _path(self, group: Group, chosen: Mapping[str, np.ndarray]) -> pathlib.Path:
        """The journal's file of a group; its name is the digest of what determines the draws."""
        spec, settings, identity = self.job.spec, self.context.settings, self.context.identity
        projection = group.projection
        key = [
            [identity["inputs"][source] for source in (spec.base, spec.post)],
            identity["versions"],
            settings.factorisation,
            [settings.nulls.draws, settings.nulls.seed],
            [projection.name, projection.shape, projection.transposed, projection.rows],
            projection.tensors[group.start : group.stop],
            chosen[projection.name][group.start : group.stop],
            group.length,
        ]
        return self.journal / f"{digest_of(key)}.npz"

    def _rounding(self, tensor: str) -> float:
        """Relative size of the change that storing a tensor makes, in either checkpoint."""
        plan = self.job.plan
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
