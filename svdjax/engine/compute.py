"""Read, ship, compute: the next group is read by one thread while the present one computes.

Axis legend: `L` layers, `I` in, `O` out. Two groups are in memory at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import jax
import numpy as np

from svdjax.checkpoint import Checkpoint, PairPlan, read_stack
from svdjax.engine.groups import Group
from svdjax.engine.prefetch import prefetched
from svdjax.engine.results import ProjectionResult
from svdjax.spectral import PairMetrics, analyse_stack, working_precision


@dataclass(frozen=True)
class Computed:
    """A finished group: its numbers for the layers [start, stop), and the seconds it took."""

    group: Group
    metrics: PairMetrics
    seconds: float


def compute_groups(
    groups: Sequence[Group],
    plans: Mapping[str, PairPlan],
    *,
    factorisation: str,
    corner: int,
    mesh: jax.sharding.Mesh,
    check: Callable[[], None] = lambda: None,
) -> Generator[Computed, None, None]:
    """Yields the groups in order, computed.

    Args:
      groups: what to compute.
      plans: the plan of every pair that occurs in `groups`.
      factorisation: key of `svdjax.spectral.FACTORISATIONS`.
      corner: see `svdjax.spectral.pair_metrics`.
      mesh: the devices, axis ``layers``.
      check: called between groups; may raise to stop.

    Raises:
      InputError: a tensor holds NaN or Inf, or its file has become unreadable.
    """
    stream = prefetched(
        groups, lambda group: ship_group(group, plans[group.pair], factorisation, mesh), check
    )
    for group, (base, post) in stream:
        start = time.perf_counter()
        metrics = _analyse(base, post, factorisation, corner, mesh)
        del base, post
        layers = group.stop - group.start
        kept = PairMetrics(*(np.asarray(value)[:layers] for value in metrics))
        yield Computed(group, kept, time.perf_counter() - start)


def _analyse(
    base: jax.Array, post: jax.Array, factorisation: str, corner: int, mesh: jax.sharding.Mesh
) -> PairMetrics:
    with working_precision(factorisation):
        metrics = analyse_stack(base, post, factorisation=factorisation, corner=corner, mesh=mesh)
        return jax.device_get(metrics)


def ship_group(
    group: Group, plan: PairPlan, factorisation: str, mesh: jax.sharding.Mesh
) -> tuple[jax.Array, jax.Array]:
    """Both stacks [L, I, O] of a group on the devices, in their storage dtype."""
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("layers"))
    # The setting is each thread's own.
    with working_precision(factorisation):
        base = jax.device_put(padded_stack(plan.base, group), sharding)
        post = jax.device_put(padded_stack(plan.post, group), sharding)
        return base, post


def padded_stack(checkpoint: Checkpoint, group: Group) -> np.ndarray:
    """The matrices of a group [L, I, O] as stored, filled up with zeros to the group's length."""
    stack = read_stack(checkpoint, group.projection, group.start, group.stop)
    missing = group.length - len(stack)
    if missing:
        stack = np.concatenate([stack, np.zeros((missing, *stack.shape[1:]), stack.dtype)])
    return stack


def collect(pieces: Sequence[Computed]) -> dict[str, ProjectionResult]:
    """Joins the groups of one pair, given in the plan's order, into results by projection."""
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
