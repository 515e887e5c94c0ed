"""What a comparison needs of one matrix alone, computed once however many pairs it occurs in.

Pairs that share a checkpoint go side by side, group by group (`plan_spectra`): what is known of a
group's matrices stays on the devices, with the matrices themselves, until its last pair has had it.
So do those of `MOST` checkpoints at a time. Others, and all where the config names a directory, are
kept on disk by content: the key is the hash of the matrices as stored, so it does not matter which
checkpoint they came from, nor whether they are base or post.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from svdjax.checkpoint import Checkpoint, PairPlan
from svdjax.checkpoint.cache import ArrayCache, content_key
from svdjax.engine import devices
from svdjax.engine.cost import pair_cost
from svdjax.engine.groups import Group, side_bytes
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import note
from svdjax.spectral import (
    State,
    Stored,
    get_factorisation,
    needs_rotations,
    prepare_stack,
    prepared_shape,
    to_raw,
)

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings

FOLDER = ".kept"

MOST = 3
"""Checkpoints of which a group stays on the devices at a time: a base and its posts need one, a
chain of steps that are each compared with the last and the first one two."""


@dataclass
class Side:
    """One side of a group on the devices: its stack as stored, [L, R, M].

    Attributes:
      stack: the matrices.
      known: what is known of them, once that was made or found.
      key: names them on disk; None where they are not kept there.
    """

    stack: Stored
    known: State | None = None
    key: str | None = None


class FactorCache:
    """What is kept of a sweep's matrices; see `svdjax.spectral.compare.State`.

    Attributes:
      sources: paths of the checkpoints that are worth keeping them of.
    """

    def __init__(
        self,
        settings: Settings,
        directory: pathlib.Path | str = "",
        sources: Collection[str] = frozenset(),
    ):
        """Keeps nothing of any other checkpoint than `sources`; on disk, in `directory`."""
        self.sources = sources
        self._route = get_factorisation(settings.factorisation)
        self._measure = settings.measure
        self._directory, self._bytes = directory, settings.factor_cache_bytes
        self._always = bool(settings.factor_cache and self._bytes)
        self._uses: collections.Counter[Hashable] = collections.Counter()
        self._held: dict[Hashable, Side] = {}
        self._elsewhere: set[Hashable] = set()
        self._made: dict[str, Future[None]] = {}
        self._writer: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None
        if self._always:
            _ = self._cache  # A directory that cannot be had is to be told of at once.

    @functools.cached_property
    def _cache(self) -> ArrayCache:
        return ArrayCache(self._directory, self._bytes, note=note)

    @functools.cached_property
    def _about(self) -> list[Any]:
        return ["known", self._route.name, needs_rotations(self._measure), devices.versions()]

    def expect(self, groups: Iterable[Group], plans: Mapping[str, PairPlan]) -> None:
        """Takes note of what `side` will be asked for."""
        for group in groups:
            for checkpoint in (plans[group.pair].base, plans[group.pair].post):
                self._uses[_name(checkpoint, group)] += 1

    def side(
        self,
        checkpoint: Checkpoint,
        group: Group,
        read: Callable[[], np.ndarray],
        ship: Callable[[Any], Any],
    ) -> Side:
        """One side of a group; to be called by one thread, in the order of the groups.

        Args:
          checkpoint: the side.
          group: what of it.
          read: makes its stack [L, R, M], as stored.
          ship: puts a pytree of stacks on the devices.
        """
        if str(checkpoint.path) not in self.sources:
            return Side(ship(to_raw(read())))
        name = _name(checkpoint, group)
        self._uses[name] -= 1
        again = self._uses[name] > 0
        side = self._held.get(name)
        if side is None:
            stack, key, found = read(), None, None
            stays = again and len(self._held) < MOST
            if again and not stays and self._bytes:
                self._elsewhere.add(name)
            if self._always or name in self._elsewhere:
                key = self._key(stack)
                found = self._find(key, stack.shape)
            side = Side(*ship((to_raw(stack), found)), key=key)
            if stays:
                self._held[name] = side
        if not again:
            self._held.pop(name, None)
        return side

    def known(self, side: Side, mesh: jax.sharding.Mesh) -> State:
        """What is known of a side, computed where it is not; within `working_precision`.

        What is kept on disk is written while the next stack is worked on.
        """
        if side.known is None and side.key in self._made:
            # By the group before, while this one was read.
            side.known = self._find(side.key, side.stack.shape)
        if side.known is not None:
            return side.known
        made = side.known = prepare_stack(
            side.stack, factorisation=self._route, measure=self._measure, mesh=mesh
        )
        key = side.key
        if key is not None:
            self._settle()
            leaves = jax.tree.leaves(made)

            def keep() -> None:
                self._cache.write(key, dict(zip(_names(leaves), jax.device_get(leaves))))

            if self._writer is None:
                self._writer = ThreadPoolExecutor(1, thread_name_prefix="svdjax-keep")
            self._made[key] = self._last = self._writer.submit(keep)
        return made

    def close(self) -> None:
        """Waits until all is kept that is to be, and lets go of all else."""
        self._held.clear()
        self._settle()
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None

    def _key(self, stack: np.ndarray) -> str:
        """Names what is kept of a stack [L, R, M] as stored: hashes the matrices."""
        return content_key({"w": stack}, self._about)

    def _find(self, key: str, shape: tuple[int, ...]) -> State | None:
        """What is on disk of a stack, on the host; None where nothing is."""
        if key in self._made:
            self._made[key].result()
        form = prepared_shape(shape, factorisation=self._route, measure=self._measure)
        leaves, tree = jax.tree.flatten(form)
        names = _names(leaves)
        forms = {name: (one.shape, one.dtype) for name, one in zip(names, leaves)}
        found = self._cache.read(key, forms)
        if found is None:
            return None
        return jax.tree.unflatten(tree, [found[name] for name in names])

    def _settle(self) -> None:
        """Returns when all that was made is kept."""
        if self._last is not None:
            self._last.result()


def share_sides(
    groups: Sequence[Group], plans: Mapping[str, PairPlan], sources: Collection[str]
) -> list[Group]:
    """Groups with the `read` and `work` that are left when shared matrices are had once.

    Args:
      groups: in the order in which they are computed.
      plans: the plan of every pair that occurs in `groups`.
      sources: paths of the checkpoints of whose matrices something is kept.
    """
    seen: set[Hashable] = set()
    shared = []
    for group in groups:
        plan, layers = plans[group.pair], group.stop - group.start
        fresh, read = 0, 0
        for checkpoint in (plan.base, plan.post):
            name = _name(checkpoint, group)
            if name not in seen or str(checkpoint.path) not in sources:
                fresh += 1
                read += layers * side_bytes(checkpoint, group.projection)
            seen.add(name)
        work = group.length * pair_cost(group.projection.shape, sides=fresh).operations
        shared.append(dataclasses.replace(group, read=read, work=work))
    return shared


def _name(checkpoint: Checkpoint, group: Group) -> Hashable:
    """The same for the same matrices of one checkpoint, whatever pair they belong to."""
    one = group.projection
    return str(checkpoint.path), one.tensors[group.start : group.stop], one.rows, group.length


def _names(leaves: Sequence[Any]) -> list[str]:
    """Of the arrays of an entry."""
    return [f"x{number}" for number in range(len(leaves))]


def kept_for(jobs: Sequence[PairJob], settings: Settings, workdir: pathlib.Path) -> FactorCache:
    """What is kept for a sweep, of checkpoints that occur in several pairs.

    A directory that the config names keeps everything, for other sweeps.
    """
    return FactorCache(
        settings, settings.factor_cache or workdir / FOLDER, shared_checkpoints(jobs, settings)
    )


def group_budget(jobs: Sequence[PairJob], settings: Settings) -> int:
    """Bytes of a group as stored: less beside what is kept, in float64 up to 8 times bf16 ones."""
    return settings.group_bytes // (4 if shared_checkpoints(jobs, settings) else 1)


def shared_checkpoints(jobs: Sequence[PairJob], settings: Settings) -> set[str]:
    """Paths of the checkpoints that are worth keeping anything of."""
    if settings.factor_cache and settings.factor_cache_bytes:
        return _sources(jobs, settings, least=1)
    return common_sources(jobs, settings)


def common_sources(jobs: Sequence[PairJob], settings: Settings) -> set[str]:
    """Those of the checkpoints that occur in several pairs."""
    return _sources(jobs, settings, least=2)


def _sources(jobs: Sequence[PairJob], settings: Settings, least: int) -> set[str]:
    if not get_factorisation(settings.factorisation).supports_gram:
        return set()
    sides = [str(side.path) for job in jobs for side in (job.plan.base, job.plan.post)]
    return {path for path, count in collections.Counter(sides).items() if count >= least}
