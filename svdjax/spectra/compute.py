"""Read, ship, compute: the next group is read by one thread while the present one computes.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `M` = max(I, O). Two groups are in memory
at a time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from svdjax.checkpoint import Checkpoint, PairPlan, read_stack, stack_dtype
from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.groups import Group
from svdjax.engine.prefetch import prefetch
from svdjax.engine.progress import note
from svdjax.errors import InputError
from svdjax.spectra.factor_cache import FactorCache, Side
from svdjax.spectra.results import ProjectionResult
from svdjax.spectral import (
    PairMetrics,
    State,
    analyse_stack,
    compile_analysis,
    compile_prepare,
    is_long,
    working_precision,
)

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings


@dataclass(frozen=True)
class Computed:
    """A finished group: its numbers for the layers [start, stop), and the seconds it took."""

    group: Group
    metrics: PairMetrics
    seconds: float


def compute_groups(
    groups: Sequence[Group],
    plans: Mapping[str, PairPlan],
    settings: Settings,
    mesh: jax.sharding.Mesh,
    *,
    ahead: CompileQueue,
    kept: FactorCache | None = None,
    check: Callable[[], None] = lambda: None,
) -> Generator[Computed, None, None]:
    """Yields the groups in order, computed.

    Args:
      groups: what to compute.
      plans: the plan of every pair that occurs in `groups`.
      settings: factorisation, measure and corner.
      mesh: the devices, axis ``layers``.
      ahead: compiles the programs of later groups while earlier ones compute.
      kept: what is kept of matrices that occur in several pairs.
      check: called between groups; may raise to stop.

    Raises:
      InputError: a tensor holds NaN or Inf, its file has become unreadable, or one matrix for
        each device is more than a device's memory.
    """
    kept = FactorCache(settings) if kept is None else kept
    work = _Work(settings, mesh, kept, ahead)
    kept.expect(groups, plans)
    compile_groups(groups, plans, settings, mesh, sources=kept.sources, ahead=ahead)
    stream = prefetch(groups, lambda group: work.ship(group, plans[group.pair]), check)
    try:
        for group, shipped in stream:
            start = time.perf_counter()
            metrics = work.analyse(group, shipped)
            del shipped
            layers = group.stop - group.start
            metrics = PairMetrics(*(np.asarray(value)[:layers] for value in metrics))
            yield Computed(group, metrics, time.perf_counter() - start)
    finally:
        stream.close()
        kept.close()


def compile_groups(
    groups: Sequence[Group],
    plans: Mapping[str, PairPlan],
    settings: Settings,
    mesh: jax.sharding.Mesh,
    *,
    sources: Collection[str],
    ahead: CompileQueue,
) -> None:
    """Has the programs made that `compute_groups` will call, in the order of the groups.

    Args:
      groups: as there, like the rest.
      plans: likewise.
      settings: likewise.
      mesh: likewise.
      sources: paths of the checkpoints of whose matrices something is kept.
      ahead: who makes them.
    """
    how: Any = {"settings": settings, "mesh": mesh}
    for group in groups:
        sides = plans[group.pair].base, plans[group.pair].post
        known = _by_known(plans[group.pair], group, sources)
        dtypes = tuple(
            stack_dtype(side, group.projection, group.start, group.stop) for side in sides
        )
        shape = (group.length, *sorted(group.projection.shape))
        for dtype, needed in zip(dtypes, known):
            if needed:
                make = functools.partial(_compile_known, shape, dtype, **how)
                ahead.request((shape, dtype), make)
        program = shape, dtypes, known
        ahead.request(program, functools.partial(_compile, *program, **how))


def _by_known(plan: PairPlan, group: Group, sources: Collection[str]) -> tuple[bool, bool]:
    """Which of base and post a group is compared by what is known of it, made beforehand.

    Factors are made so on both sides or on none: within the comparison they take more memory.
    """
    base, post = str(plan.base.path) in sources, str(plan.post.path) in sources
    if is_long(group.projection.shape):
        return base, post
    return base or post, base or post


def _compile_known(
    shape: tuple[int, int, int], dtype: np.dtype, settings: Settings, mesh: jax.sharding.Mesh
) -> None:
    with working_precision(settings.factorisation):
        compile_prepare(
            shape,
            dtype,
            factorisation=settings.factorisation,
            measure=settings.measure,
            mesh=mesh,
        )


def _compile(
    shape: tuple[int, int, int],
    dtypes: tuple[np.dtype, np.dtype],
    known: tuple[bool, bool],
    settings: Settings,
    mesh: jax.sharding.Mesh,
) -> None:
    with working_precision(settings.factorisation):
        compile_analysis(
            shape,
            dtypes,
            factorisation=settings.factorisation,
            corner=settings.corner,
            measure=settings.measure,
            known=known,
            mesh=mesh,
        )


@dataclass(frozen=True)
class _Shipped:
    """A group on the devices.

    Attributes:
      sides: base and post, in their storage dtype, [L, R, M] whichever side is the input.
      known: which of them are compared by what is known of them.
      turned: whether they are transposed.
    """

    sides: tuple[Side, Side]
    known: tuple[bool, bool]
    turned: bool


@dataclass(frozen=True)
class _Work:
    """How groups are computed; the names are those of `compute_groups`."""

    settings: Settings
    mesh: jax.sharding.Mesh
    kept: FactorCache
    ahead: CompileQueue

    def ship(self, group: Group, plan: PairPlan) -> _Shipped:
        """Reads a group and puts it on the devices; leaves it on the host where it has no room."""
        known = _by_known(plan, group, self.kept.sources)
        sides = self._side(plan.base, group), self._side(plan.post, group)
        return _Shipped(sides, known, group.projection.turned)

    def _side(self, checkpoint: Checkpoint, group: Group) -> Side:
        def read() -> np.ndarray:
            # Products run along the short side's rows: a tall matrix would be turned there, once
            # for each product.
            return padded_stack(checkpoint, group, wide=True)

        def ship(stacks: Any) -> Any:
            return on_devices(stacks, self.settings.factorisation, self.mesh)

        return self.kept.side(checkpoint, group, read, ship)

    def analyse(self, group: Group, shipped: _Shipped) -> PairMetrics:
        """The numbers of a group, on the host."""
        stacks = tuple(side.stack for side in shipped.sides)
        shape, dtypes = stacks[0].shape, tuple(stack.dtype for stack in stacks)
        with working_precision(self.settings.factorisation):
            known = [self._known(*one) for one in zip(shipped.sides, shipped.known)]
            self.ahead.wait((shape, dtypes, shipped.known))
            metrics = in_parts(self._run, (*stacks, tuple(known)), self.mesh.size, group.label)
        return metrics.of_transposed() if shipped.turned else metrics

    def _known(self, side: Side, needed: bool) -> State | None:
        if not needed:
            return None
        self.ahead.wait((side.stack.shape, side.stack.dtype))
        return self.kept.known(side, self.mesh)

    def _run(self, stacks: Any) -> PairMetrics:
        base, post, known = stacks
        metrics = analyse_stack(
            base,
            post,
            factorisation=self.settings.factorisation,
            corner=self.settings.corner,
            measure=self.settings.measure,
            known=known,
            mesh=self.mesh,
        )
        return jax.device_get(metrics)


def in_parts(run: Callable[[Any], Any], stacks: Any, least: int, what: str) -> Any:
    """Calls `run`; what the devices have no room for is halved along its layers and tried again.

    Args:
      run: takes a pytree of stacks, returns one of numpy arrays with the same leading axis.
      stacks: what to call it with.
      least: layers that are not divided any more, one for each device.
      what: for the error.

    Raises:
      InputError: there is no room for `least` layers.
    """
    try:
        return run(stacks)
    except jax.errors.JaxRuntimeError as error:
        if not _out_of_memory(error):
            raise
    layers = jax.tree.leaves(stacks)[0].shape[0]
    if layers <= least:
        raise InputError(
            f"{what}: one matrix pair needs more memory than a device has; use devices with more, "
            "or --config.measure=vectors, which needs less"
        )
    cut = -(-layers // 2 // least) * least
    note(f"{what}: no room for {layers} layers on the devices, going on with {cut}")
    whole = jax.device_get(stacks)
    first = jax.tree.map(lambda stack: stack[:cut], whole)
    second = jax.tree.map(lambda stack: stack[cut:], whole)
    parts = [in_parts(run, half, least, what) for half in (first, second)]
    return jax.tree.map(lambda *fields: np.concatenate(fields), *parts)


def _out_of_memory(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()


def ship_group(
    group: Group, plan: PairPlan, factorisation: str, mesh: jax.sharding.Mesh
) -> tuple[Any, Any]:
    """Both stacks [L, I, O] of a group on the devices, in their storage dtype."""
    stacks = padded_stack(plan.base, group), padded_stack(plan.post, group)
    return on_devices(stacks, factorisation, mesh)


def on_devices(stacks: Any, factorisation: str, mesh: jax.sharding.Mesh) -> Any:
    """A pytree of stacks on the devices; as it is where the devices have no room for it."""
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("layers"))
    # The setting is each thread's own.
    with working_precision(factorisation):
        try:
            return jax.block_until_ready(jax.device_put(stacks, sharding))
        except jax.errors.JaxRuntimeError as error:
            if not _out_of_memory(error):
                raise
            return stacks


def padded_stack(checkpoint: Checkpoint, group: Group, *, wide: bool = False) -> np.ndarray:
    """The matrices of a group as stored, filled up to its length; see `read_stack`."""
    return read_stack(
        checkpoint, group.projection, group.start, group.stop, length=group.length, wide=wide
    )


def collect(pieces: Sequence[Computed]) -> dict[str, ProjectionResult]:
    """Joins the groups of one pair into results by projection, the layers of each in order."""
    by_name: dict[str, list[Computed]] = {}
    for piece in pieces:
        by_name.setdefault(piece.group.projection.name, []).append(piece)
    results = {}
    for name, parts in by_name.items():
        projection = parts[0].group.projection
        joined = (np.concatenate(field) for field in zip(*(part.metrics for part in parts)))
        results[name] = ProjectionResult(
            name=name,
            module=projection.module,
            shape=(projection.shape[0], projection.shape[1]),
            layers=len(projection.tensors),
            metrics=PairMetrics(*joined),
        )
    return results
