"""The nulls stage of a sweep: draws for some matrices of each projection, formulas for all.

What is drawn depends on seed, projection, layer and the number of the draw, not on the groups, so
that a sweep which was killed goes on with the same numbers. Axis legend: `L` layers, `R` rank, `D`
draws.
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
from svdjax.checkpoint import PairPlan, digest_of
from svdjax.engine.context import Context
from svdjax.engine.groups import Group, plan_groups
from svdjax.engine.inputs import PairJob
from svdjax.engine.prefetch import prefetch
from svdjax.engine.progress import note
from svdjax.nulls.choosing import Analytic, analytic_nulls, chosen_layers
from svdjax.nulls.options import NullOptions
from svdjax.nulls.results import NullArrays, NullResults, ProjectionNulls
from svdjax.spectra.compute import ship_group
from svdjax.spectra.results import Comparison, ProjectionResult
from svdjax.spectral import nulls, working_precision
from svdjax.spectral.null_draws import KINDS, draw_nulls
from svdjax.spectral.null_signs import FACTORISATION, framed_change

_JOURNAL = ".nulls"
_DRAWN = ("nf", "alpha", "spread", "svsm_mean", "svsm_std")
Drawn = Mapping[str, np.ndarray]


def run_nulls(
    jobs: Sequence[PairJob], comparisons: Mapping[str, Comparison], stage: Context
) -> dict[str, NullResults]:
    """Holds every pair against its null models.

    Args:
      jobs: the validated pairs.
      comparisons: their analyses.
      stage: see there.

    Returns:
      The results by pair, in the order of `jobs`.
    """
    with stage.journal(_JOURNAL) as journal:

        def make(job: PairJob) -> NullResults:
            results = _Pair(job, comparisons[job.spec.name], stage, journal).results()
            results.save(stage.workdir / job.spec.name)
            return results

        return stage.pair_by_pair(jobs, NullResults.load, make)


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
    stage: Context
    journal: pathlib.Path

    def results(self) -> NullResults:
        how, start = self.stage.settings.nulls, time.perf_counter()
        analytic = {name: analytic_nulls(one) for name, one in self.comparison.projections.items()}
        chosen = {
            name: chosen_layers(one, how.layers) if how.draws else np.zeros(0, int)
            for name, one in analytic.items()
        }
        drawn = self._drawn(chosen)
        results = NullResults(
            pair=self.job.spec.name,
            settings=asdict(how),
            projections={
                name: ProjectionNulls(
                    name,
                    one.shape,
                    _arrays(
                        one, analytic[name], self._rounding(name), chosen[name], drawn[name], how
                    ),
                )
                for name, one in self.comparison.projections.items()
            },
        )
        cost = results.cost
        note(
            f"nulls of {results.pair}: {cost['draws']} draws for {cost['matrices']} matrices "
            f"({time.perf_counter() - start:.2f} s)"
        )
        return results

    def _drawn(self, chosen: Mapping[str, np.ndarray]) -> dict[str, list[Drawn]]:
        """What was drawn for the chosen layers, group by group, of every projection."""
        plan = self.job.plan
        some = tuple(
            dataclasses.replace(one, tensors=tuple(one.tensors[i] for i in chosen[one.name]))
            for one in plan.projections
            if len(chosen[one.name])
        )
        groups = plan_groups(
            self.job.spec.name,
            dataclasses.replace(plan, projections=some),
            group_bytes=self.stage.settings.group_bytes,
            devices=self.stage.mesh.size,
        )
        kept: dict[Group, Drawn] = {}
        for group in groups:
            with contextlib.suppress(OSError, ValueError, KeyError):
                kept[group] = _whole(read_npz(self._path(group, chosen)))
        if kept:
            note(f"nulls of {self.job.spec.name}: reused {len(kept)}/{len(groups)} groups")
        missing = [group for group in groups if group not in kept]
        stream = prefetch(
            missing,
            lambda group: ship_group(group, plan, FACTORISATION, self.stage.mesh),
            lambda: self.stage.check(
                f"nulls of {self.job.spec.name}: {len(kept)} of {len(groups)} groups drawn"
            ),
        )
        for group, (base, post) in stream:
            start = time.perf_counter()
            kept[group] = self._draw(group, base, post, chosen)
            del base, post
            write_npz(self._path(group, chosen), kept[group])
            layers = ", ".join(map(str, chosen[group.projection.name][group.start : group.stop]))
            note(
                f"drew {len(kept)}/{len(groups)} {group.pair} {group.projection.name} of layers "
                f"{layers} ({time.perf_counter() - start:.2f} s)"
            )
        found: dict[str, list[Drawn]] = {name: [] for name in chosen}
        for group in groups:
            found[group.projection.name].append(kept[group])
        return found

    def _draw(
        self, group: Group, base: jax.Array, post: jax.Array, chosen: Mapping[str, np.ndarray]
    ) -> Drawn:
        how, name = self.stage.settings.nulls, group.projection.name
        layers = chosen[name][group.start : group.stop]
        filled = np.concatenate([layers, np.repeat(layers[-1:], group.length - len(layers))])
        metrics = self.comparison[name].metrics
        alpha = np.asarray(metrics.alpha_ls, np.float64)[filled]
        tag = int.from_bytes(hashlib.sha256(name.encode("utf-8", "replace")).digest()[:4], "big")
        seeds = [(how.seed, tag, layer) for layer in filled]
        mesh = self.stage.mesh
        with working_precision(FACTORISATION):
            change = framed_change(base, post, alpha, mesh=mesh)
            found = draw_nulls(
                np.asarray(metrics.sigma_base)[filled],
                alpha,
                change,
                np.array(seeds, np.uint32),
                shape=group.projection.shape,
                draws=how.draws,
                mesh=mesh,
            )
            values, top_half = change.values, change.top_half
            found, values, top_half = jax.device_get((found, values, top_half))
        count = len(layers)
        drawn = {
            f"{key}_{kind}": np.asarray(getattr(found[kind], key))[:count]
            for kind in KINDS
            for key in _DRAWN
        }
        return {
            "sigma_delta": np.asarray(values)[:count],
            "top_half": np.asarray(top_half)[:count, None],
            **drawn,
        }

    def _path(self, group: Group, chosen: Mapping[str, np.ndarray]) -> pathlib.Path:
        """Where the journal keeps a group; the name is the digest of what determines it."""
        spec, settings, identity = self.job.spec, self.stage.settings, self.stage.identity
        projection = group.projection
        about = [
            [identity["inputs"][source] for source in (spec.base, spec.post)],
            identity["versions"],
            settings.factorisation,
            [settings.nulls.draws, settings.nulls.seed],
            [projection.name, projection.shape, projection.transposed, projection.rows],
            projection.tensors[group.start : group.stop],
            chosen[projection.name][group.start : group.stop],
            group.length,
        ]
        return self.journal / f"{digest_of(about)}.npz"

    def _rounding(self, name: str) -> np.ndarray:
        """Relative size of the change that storing either side's layers makes, [L]."""
        (projection,) = (one for one in self.job.plan.projections if one.name == name)
        return np.array([_rounding(self.job.plan, tensor) for tensor in projection.tensors])


def _rounding(plan: PairPlan, tensor: str) -> float:
    names = (side.spec(tensor).dtype.name for side in (plan.base, plan.post))
    return max(nulls.ROUNDING.get(name, 0.0) for name in names)


def _whole(arrays: dict[str, np.ndarray]) -> Drawn:
    """What a journal's file should hold; raises KeyError where it does not."""
    names = ["sigma_delta", "top_half", *(f"{key}_{kind}" for kind in KINDS for key in _DRAWN)]
    return {name: arrays[name] for name in names}


def _arrays(
    one: ProjectionResult,
    analytic: Analytic,
    rounding: np.ndarray,
    chosen: np.ndarray,
    drawn: Sequence[Drawn],
    how: NullOptions,
) -> NullArrays:
    """All arrays of a projection, rows of layers that were not sampled NaN."""
    layers, rank = one.layers, min(one.shape)
    widths: dict[str, int] = dict.fromkeys(("nf", "alpha", "spread"), how.draws)

    def rows(name: str, width: int) -> np.ndarray:
        full = np.full((layers, width), np.nan)
        if len(chosen):
            full[chosen] = np.concatenate([part[name] for part in drawn])
        return full

    sampled = np.zeros(layers, bool)
    sampled[chosen] = True
    return NullArrays(
        nf=np.asarray(one.nf, np.float64),
        alpha=one.statistics.layer_mean,
        spread=one.statistics.layer_std,
        alpha_ls=np.asarray(one.metrics.alpha_ls, np.float64),
        delta=analytic.delta,
        rounding=rounding,
        nf_first_order=analytic.first_order,
        nf_all_orders=analytic.all_orders,
        first_order_holds=analytic.first_order_holds,
        all_orders_hold=analytic.all_orders_hold,
        sampled=sampled,
        sigma_delta=rows("sigma_delta", rank),
        top_half=rows("top_half", 1)[:, 0],
        **{
            f"{key}_{kind}": rows(f"{key}_{kind}", widths.get(key, rank))
            for kind in KINDS
            for key in _DRAWN
        },
    )
