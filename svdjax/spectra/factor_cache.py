"""States of matrices, computed once however many pairs a matrix occurs in.

Pairs that share a checkpoint go side by side, group by group (`svdjax.spectra.plan`): the states of
a group's matrices stay on the devices, with the matrices themselves, until its last pair has had
them. So do those of `MOST` checkpoints at a time. Others, and all where the config names a
directory, are kept on disk by content: the key is the hash of the matrices as stored, so it does
not matter which checkpoint they came from, nor whether they are base or post.
"""

from __future__ import annotations

import collections
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
from svdjax.engine.groups import Group
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
        stack: The matrices.
        state: What a comparison needs of them, once that was computed or found.
        key: Names them on disk; None where they are not kept there.
    """

    stack: Stored
    state: State | None = None
    key: str | None = None


class FactorCache:
    """States of a sweep's matrices; see `svdjax.spectral.compare.State`.

    Attributes:
        sources: Paths of the checkpoints that are worth keeping them of.
    """

    def __init__(
        self,
        settings: Settings,
        directory: pathlib.Path | str = "",
        sources: Collection[str] = frozenset(),
    ):
        """Keeps nothing of any other checkpoint than `sources`; on disk, in `directory`."""
        self.sources = sources
        self._factorisation = get_factorisation(settings.factorisation)
        self._measure = settings.measure
        self._directory, self._bytes = directory, settings.factor_cache_bytes
        self._always = bool(settings.factor_cache and self._bytes)
        self._uses: collections.Counter[Hashable] = collections.Counter()
        self._held: dict[Hashable, Side] = {}
        self._elsewhere: set[Hashable] = set()
        self._written: dict[str, Future[None]] = {}
        self._writer: ThreadPoolExecutor | None = None
        self._last: Future[None] | None = None
        if self._always:
            _ = self._cache  # A directory that cannot be had is to be told of at once.

    @functools.cached_property
    def _cache(self) -> ArrayCache:
        return ArrayCache(self._directory, self._bytes, note=note)

    @functools.cached_property
    def _about(self) -> list[Any]:
        return [
            "known",
            self._factorisation.name,
            needs_rotations(self._measure),
            devices.versions(),
        ]

    def expect(self, groups: Iterable[Group], plans: Mapping[str, PairPlan]) -> None:
        """Takes note of what `side` will be asked for."""
        for group in groups:
            for checkpoint in (plans[group.pair].base, plans[group.pair].post):
                self._uses[group_key(checkpoint, group)] += 1

    def side(
        self,
        checkpoint: Checkpoint,
        group: Group,
        read: Callable[[], np.ndarray],
        ship: Callable[[Any], Any],
    ) -> Side:
        """One side of a group; to be called by one thread, in the order of the groups.

        Args:
            checkpoint: The side.
            group: What of it.
            read: Makes its stack [L, R, M], as stored.
            ship: Puts a pytree of stacks on the devices.
        """
        if str(checkpoint.path) not in self.sources:
            return Side(ship(to_raw(read())))
        name = group_key(checkpoint, group)
        self._uses[name] -= 1
        again = self._uses[name] > 0
        side = self._held.get(name)
        if side is None:
            stack, key, state = read(), None, None
            stays = again and len(self._held) < MOST
            if again and not stays and self._bytes:
                self._elsewhere.add(name)
            if self._always or name in self._elsewhere:
                key = self._key(stack)
                state = self._find(key, stack.shape)
            side = Side(*ship((to_raw(stack), state)), key=key)
            if stays:
                self._held[name] = side
        if not again:
            self._held.pop(name, None)
        return side

    def state(self, side: Side, mesh: jax.sharding.Mesh) -> State:
        """The state of a side, computed where it is missing; within `working_precision`.

        What is kept on disk is written while the next stack is worked on.
        """
        if side.state is None and side.key in self._written:
            # By the group before, while this one was read.
            side.state = self._find(side.key, side.stack.shape)
        if side.state is not None:
            return side.state
        state = side.state = prepare_stack(
            side.stack, factorisation=self._factorisation, measure=self._measure, mesh=mesh
        )
        key = side.key
        if key is not None:
            self._settle()
            leaves = jax.tree.leaves(state)

            def keep() -> None:
                self._cache.write(key, dict(zip(_names(leaves), jax.device_get(leaves))))

            if self._writer is None:
                self._writer = ThreadPoolExecutor(1, thread_name_prefix="svdjax-keep")
            self._written[key] = self._last = self._writer.submit(keep)
        return state

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
        """The state of a stack that is on disk, on the host; None where it is not."""
        if key in self._written:
            self._written[key].result()
        form = prepared_shape(shape, factorisation=self._factorisation, measure=self._measure)
        leaves, tree = jax.tree.flatten(form)
        names = _names(leaves)
        forms = {name: (leaf.shape, leaf.dtype) for name, leaf in zip(names, leaves)}
        arrays = self._cache.read(key, forms)
        if arrays is None:
            return None
        return jax.tree.unflatten(tree, [arrays[name] for name in names])

    def _settle(self) -> None:
        """Returns when all that was made is kept."""
        if self._last is not None:
            self._last.result()


def group_key(checkpoint: Checkpoint, group: Group) -> Hashable:
    """Key of a group's matrices of one checkpoint, whatever pair they belong to."""
    # Views of one checkpoint may have other matrices under the same names.
    parts = tuple(map(checkpoint.part, group.projection.tensors[group.start : group.stop]))
    return str(checkpoint.path), parts, group.projection.rows, group.length


def _names(leaves: Sequence[Any]) -> list[str]:
    """Names of the arrays of an entry."""
    return [f"x{number}" for number in range(len(leaves))]
