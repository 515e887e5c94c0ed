"""Read, ship, compute: the next group is read by one thread while the present one computes.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `M` = max(I, O). Two groups are in memory
at a time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from svdjax.checkpoint import Checkpoint, PairPlan, Projection, read_stack
from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.groups import Group
from svdjax.engine.prefetch import prefetch
from svdjax.engine.progress import note
from svdjax.errors import InputError
from svdjax.spectra.factor_cache import FactorCache, Side
from svdjax.spectra.plan import Program, SpectraPlan
from svdjax.spectra.results import ProjectionResult
from svdjax.spectral import PairMetrics, State, analyse_stack, working_precision


@dataclass(frozen=True)
class Computed:
    """A finished group: its numbers for the layers [start, stop), and the seconds it took."""

    group: Group
    metrics: PairMetrics
    seconds: float


def compute_groups(
    plan: SpectraPlan,
    batches: Iterable[Sequence[Group]],
    mesh: jax.sharding.Mesh,
    *,
    compile_queue: CompileQueue,
    cache: FactorCache,
    check: Callable[[], None] = lambda: None,
) -> Generator[Computed, None, None]:
    """Yields the groups in order, computed.

    Args:
        plan: Of which the groups are some.
        batches: What to compute; taken by the reading thread, one group ahead. Groups that need
            the same matrices are in one batch.
        mesh: The devices, axis ``layers``.
        compile_queue: Compiles the programs of a batch while those before it are computed.
        cache: States of matrices that occur in several pairs.
        check: Called between groups; may raise to stop.

    Raises:
        InputError: A tensor holds NaN or Inf, its file has become unreadable, or one matrix for
            each device is more than a device's memory.
    """
    analysis = _Analysis(plan, mesh, cache, compile_queue)

    def groups() -> Iterator[Group]:
        for batch in batches:
            cache.expect(batch, plan.pairs)
            compile_groups(plan, batch, mesh, compile_queue)
            yield from batch

    stream = prefetch(groups(), analysis.ship, check)
    try:
        for group, shipped in stream:
            start = time.perf_counter()
            metrics = analysis.compare(group, *shipped)
            del shipped
            layers = group.stop - group.start
            metrics = PairMetrics(*(np.asarray(value)[:layers] for value in metrics))
            yield Computed(group, metrics, time.perf_counter() - start)
    finally:
        stream.close()
        cache.close()


def compile_groups(
    plan: SpectraPlan,
    groups: Sequence[Group],
    mesh: jax.sharding.Mesh,
    compile_queue: CompileQueue,
) -> None:
    """Requests the programs that `compute_groups` will call, in the order of the groups."""
    for program in plan.programs(groups):
        compile_queue.request(program, functools.partial(program.compile, plan.settings, mesh))


@dataclass(frozen=True)
class _Analysis:
    """Reading and comparing of groups; the names are those of `compute_groups`."""

    plan: SpectraPlan
    mesh: jax.sharding.Mesh
    cache: FactorCache
    compile_queue: CompileQueue

    def ship(self, group: Group) -> tuple[tuple[Side, Side], tuple[np.ndarray, np.ndarray]]:
        """Reads both sides, in their storage dtype, [L, R, M] whichever side is the input.

        They go to the devices, and stay on the host where those have no room. Beside them is what
        quantisation rounded of them.
        """
        pair = self.plan.pairs[group.pair]
        sides = self._side(pair.base, group), self._side(pair.post, group)
        return sides, (_codes(pair, pair.base, group), _codes(pair, pair.post, group))

    def _side(self, checkpoint: Checkpoint, group: Group) -> Side:
        def read() -> np.ndarray:
            # Products run along the short side's rows: a tall matrix would be turned there, once
            # for each product.
            return padded_stack(checkpoint, group, wide=True)

        def ship(stacks: Any) -> Any:
            return on_devices(stacks, self.plan.settings.factorisation, self.mesh)

        return self.cache.side(checkpoint, group, read, ship)

    def compare(
        self,
        group: Group,
        sides: tuple[Side, Side],
        codes: tuple[np.ndarray, np.ndarray],
    ) -> PairMetrics:
        """The numbers of a group, on the host."""
        stacks, given = tuple(side.stack for side in sides), self.plan.given(group)
        shape, dtypes = stacks[0].shape, tuple(stack.dtype for stack in stacks)
        with working_precision(self.plan.settings.factorisation):
            states = tuple(self._state(*one) for one in zip(sides, given))
            self.compile_queue.wait(Program(shape, dtypes, given))
            metrics = in_parts(self._run, (*stacks, states, codes), self.mesh.size, group.label)
        # They were compared with their short side as rows.
        return metrics.of_transposed() if group.projection.turned else metrics

    def _state(self, side: Side, given: bool) -> State | None:
        if not given:
            return None
        self.compile_queue.wait(Program(side.stack.shape, (side.stack.dtype,)))
        return self.cache.state(side, self.mesh)

    def _run(self, stacks: Any) -> PairMetrics:
        base, post, states, codes = stacks
        settings = self.plan.settings
        metrics = analyse_stack(
            base,
            post,
            factorisation=settings.factorisation,
            corner=settings.corner,
            measure=settings.measure,
            known=states,
            codes=codes,
            mesh=self.mesh,
        )
        return jax.device_get(metrics)


def in_parts(run: Callable[[Any], Any], stacks: Any, least: int, what: str) -> Any:
    """Calls `run`; what the devices have no room for is halved along its layers and tried again.

    Args:
        run: Takes a pytree of stacks, returns one of numpy arrays with the same leading axis.
        stacks: What to call it with.
        least: Layers that are not divided any more, one for each device.
        what: For the error.

    Raises:
        InputError: There is no room for `least` layers.
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


def _codes(pair: PairPlan, side: Checkpoint, group: Group) -> np.ndarray:
    """What quantisation rounded of the matrices of a group, [L, 2], filled up to its length.

    Nothing where both sides have the same codes.
    """
    rows = group.projection.rows
    codes = [
        side.precision(name, rows)
        if side.packed(name) and not pair.shares_codes(name)
        else (0.0, 0.0)
        for name in group.projection.tensors[group.start : group.stop]
    ]
    return np.array(codes + codes[-1:] * (group.length - len(codes)), np.float64)


def collect(pieces: Sequence[Computed]) -> dict[str, ProjectionResult]:
    """Joins the groups of one pair into results by projection, the matrices of each in order."""
    by_name: dict[str, list[Computed]] = {}
    for piece in pieces:
        by_name.setdefault(piece.group.projection.name, []).append(piece)
    results = {}
    for name, parts in by_name.items():
        projection = parts[0].group.projection
        joined = (np.concatenate(field) for field in zip(*(part.metrics for part in parts)))
        shaped = (_by_expert(field, projection) for field in joined)
        results[name] = ProjectionResult(
            name=name,
            module=projection.module,
            shape=(projection.shape[0], projection.shape[1]),
            layers=len(projection.layers),
            metrics=PairMetrics(*shaped),
            layer_numbers=projection.layers,
            expert_numbers=projection.experts,
        )
    return results


def _by_expert(values: np.ndarray, projection: Projection) -> np.ndarray:
    """Values of a projection's matrices, [L, E, ...] where it has experts."""
    if not projection.experts:
        return values
    return values.reshape(len(projection.layers), len(projection.experts), *values.shape[1:])
