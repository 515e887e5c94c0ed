"""The spectra of a sweep as they are planned once: groups in order, what pairs share, programs.

Pairs that share a checkpoint go side by side, group by group: what is prepared of a group's
matrices is then needed for one group at a time, and little is kept.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np

from svdjax.checkpoint import PairPlan, digest_of, stack_dtype
from svdjax.engine.cost import Rates, pair_cost
from svdjax.engine.groups import Group, plan_groups, side_by_side, side_bytes, total_work
from svdjax.engine.inputs import PairJob
from svdjax.engine.stages import Forecast
from svdjax.engine.work.unit import Unit
from svdjax.spectra.factor_cache import FOLDER, FactorCache, group_key
from svdjax.spectral import (
    compile_analysis,
    compile_prepare,
    get_factorisation,
    is_long,
    working_precision,
)

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings

_GROUP_SECONDS = 0.03  # to read, ship, dispatch and journal a group, however small


class Program(NamedTuple):
    """A program to be compiled: what prepares a stack, or what compares two.

    Attributes:
        shape: Of the stacks [L, R, M].
        dtypes: As stored, of the one stack or of base and post.
        given: Whether the states of base and of post are handed in; empty for what prepares one.
    """

    shape: tuple[int, ...]
    dtypes: tuple[np.dtype, ...]
    given: tuple[bool, ...] = ()

    def compile(self, settings: Settings, mesh: jax.sharding.Mesh) -> None:
        """Compiles it; jax keeps it for who calls it. From any thread."""
        layers, rows, columns = self.shape
        shape = layers, rows, columns
        with working_precision(settings.factorisation):
            if self.given:
                compile_analysis(
                    shape,
                    (self.dtypes[0], self.dtypes[1]),
                    factorisation=settings.factorisation,
                    corner=settings.corner,
                    measure=settings.measure,
                    known=(self.given[0], self.given[1]),
                    mesh=mesh,
                )
            else:
                compile_prepare(
                    shape,
                    self.dtypes[0],
                    factorisation=settings.factorisation,
                    measure=settings.measure,
                    mesh=mesh,
                )


@dataclass(frozen=True)
class SpectraPlan:
    """The spectra of all pairs, whichever of them are finished already.

    Attributes:
        jobs: The validated pairs.
        settings: How to compute.
        shared: Paths of the checkpoints of whose matrices something is kept between groups.
        groups: Of all pairs, in the order in which they are computed.
    """

    jobs: tuple[PairJob, ...]
    settings: Settings
    shared: frozenset[str]
    groups: tuple[Group, ...]

    @functools.cached_property
    def pairs(self) -> Mapping[str, PairPlan]:
        """Matrices that are compared, by pair."""
        return {job.spec.name: job.plan for job in self.jobs}

    def of_pair(self, name: str) -> list[Group]:
        """The groups of a pair."""
        return [group for group in self.groups if group.pair == name]

    def units(self, groups: Iterable[Group]) -> list[Unit]:
        """Units of some groups, in their order.

        Those of one place go together where pairs share a checkpoint: who computes them prepares
        what they share once.
        """
        numbered = enumerate(groups)
        by_place = itertools.groupby(
            numbered, lambda each: each[1].place if self.shared else each[0]
        )
        tasks = [tuple(group for _, group in each) for _, each in by_place]
        return [
            Unit(
                key=digest_of([[g.pair, g.projection.name, g.start, g.stop] for g in task]),
                label=f"{', '.join(group.pair for group in task)} {task[0].label}",
                task=task,
                cost=total_work(task),
            )
            for task in tasks
        ]

    def factor_cache(self, workdir: pathlib.Path) -> FactorCache:
        """Cache of states of matrices, in the directory that the config names or in the workdir."""
        directory = self.settings.factor_cache or workdir / FOLDER
        return FactorCache(self.settings, directory, self.shared)

    def given(self, group: Group) -> tuple[bool, bool]:
        """Whether the comparison of a group is handed the prepared states of base and of post.

        Factors are prepared on both sides or on none: within the comparison they take more memory.
        """
        plan = self.pairs[group.pair]
        base, post = (str(side.path) in self.shared for side in (plan.base, plan.post))
        if is_long(group.projection.shape):
            return base, post
        return base or post, base or post

    def programs(self, groups: Iterable[Group]) -> list[Program]:
        """The programs of some groups, each once, in the order in which they are called."""
        programs: dict[Program, None] = {}
        for group in groups:
            plan, given = self.pairs[group.pair], self.given(group)
            dtypes = tuple(
                stack_dtype(side, group.projection, group.start, group.stop)
                for side in (plan.base, plan.post)
            )
            shape = (group.length, *sorted(group.projection.shape))
            prepared = [Program(shape, (kind,)) for kind, needed in zip(dtypes, given) if needed]
            programs |= dict.fromkeys([*prepared, Program(shape, dtypes, given)])
        return list(programs)

    def seconds(self, groups: Iterable[Group], rates: Rates) -> float:
        """Seconds of computing some groups, by the rates of all devices together."""
        return sum(
            _GROUP_SECONDS * rates.host + group.length * rates.seconds(group.cost)
            for group in groups
        )

    def forecast(self, rates: Rates) -> Forecast:
        """Forecast of all groups: computing and reading overlap, the slower counts."""
        reading = sum(group.read for group in self.groups) / rates.read
        seconds = max(self.seconds(self.groups, rates), reading)
        return Forecast([], seconds, len(self.programs(self.groups)))


def plan_spectra(jobs: Sequence[PairJob], settings: Settings, devices: int) -> SpectraPlan:
    """Plans the spectra of all pairs.

    Of each pair long matrices come first: their programs are the soonest made, and while they run
    the others are. Groups are smaller where states of matrices are kept beside them, in float64 up
    to 8 times bf16 ones.

    Args:
        jobs: The validated pairs.
        settings: How to compute.
        devices: Over which the layers of a group are spread.
    """
    sides = [str(side.path) for job in jobs for side in (job.plan.base, job.plan.post)]
    counts = collections.Counter(sides)
    if not get_factorisation(settings.factorisation).supports_gram:
        counts.clear()
    common = {path for path, count in counts.items() if count > 1}
    keeps_all = settings.factor_cache and settings.factor_cache_bytes
    shared = frozenset(counts) if keeps_all else frozenset(common)
    groups: list[Group] = []
    for job in jobs:
        cut = plan_groups(
            job.spec.name,
            job.plan,
            group_bytes=settings.group_bytes // (4 if shared else 1),
            devices=devices,
        )
        groups += sorted(cut, key=lambda group: not is_long(group.projection.shape))
    if common:
        groups = side_by_side(groups)
    plan = SpectraPlan(tuple(jobs), settings, shared, ())
    return dataclasses.replace(plan, groups=tuple(_with_costs(groups, plan)))


def _with_costs(groups: Iterable[Group], plan: SpectraPlan) -> Iterable[Group]:
    """Groups with the `read` and `cost` that are left where shared matrices are had once."""
    settings, seen = plan.settings, set[Hashable]()
    for group in groups:
        pair, layers = plan.pairs[group.pair], group.stop - group.start
        sides, read = 0, 0
        for checkpoint in (pair.base, pair.post):
            key = group_key(checkpoint, group) if str(checkpoint.path) in plan.shared else None
            if key is None or key not in seen:
                sides += 1
                read += layers * side_bytes(checkpoint, group.projection)
            seen.add(key)
        cost = pair_cost(
            group.projection.shape,
            sides=sides,
            measure=settings.measure,
            gram=get_factorisation(settings.factorisation).supports_gram,
        )
        yield dataclasses.replace(group, read=read, cost=cost)
