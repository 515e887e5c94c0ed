"""What a comparison needs of one matrix alone, computed once however many pairs it occurs in.

Kept on disk by content: the key is the hash of the matrices as stored, so it does not matter which
checkpoint they came from, nor whether they are base or post.
"""

from __future__ import annotations

import collections
import contextlib
import pathlib
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from svdjax.checkpoint.cache import ArrayCache, content_key
from svdjax.engine import devices
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import note
from svdjax.engine.settings import Settings
from svdjax.spectral import Known, Stored, get_factorisation, known_form, known_stack

FOLDER = ".kept"


class Kept:
    """What is kept of a sweep's matrices; see `svdjax.spectral.relation.Known`.

    Attributes:
      sources: paths of the checkpoints that are worth keeping them of.
    """

    def __init__(self, factorisation: str, cache: ArrayCache, sources: set[str]):
        self.sources = sources
        self._route = get_factorisation(factorisation)
        self._cache = cache
        self._about = ["known", self._route.name, devices.versions()]
        self._writer: ThreadPoolExecutor | None = None
        self._written: collections.deque[Future[None]] = collections.deque()

    def key(self, path: str, stack: np.ndarray) -> str | None:
        """Names what is kept of a stack [L, I, O] as stored; None where nothing is.

        Hashes the matrices, so it belongs into the reading thread.
        """
        if path not in self.sources:
            return None
        # Along the memory: a copy in the other order takes longer than all the rest.
        across = stack.transpose(0, 2, 1)
        if across.flags.c_contiguous and not stack.flags.c_contiguous:
            return content_key({"across": across}, self._about)
        return content_key({"w": stack}, self._about)

    def find(self, key: str | None, shape: tuple[int, ...]) -> Known | None:
        """What is kept of a stack [L, I, O], on the host; None where nothing is."""
        if key is None:
            return None
        self.settle()
        leaves, tree = jax.tree.flatten(known_form((shape[1], shape[2]), self._route.dtype))
        names = _names(leaves)
        forms = {name: ((shape[0], *one.shape), one.dtype) for name, one in zip(names, leaves)}
        found = self._cache.read(key, forms)
        if found is None:
            return None
        return jax.tree.unflatten(tree, [found[name] for name in names])

    def make(self, stack: Stored, key: str | None, mesh: jax.sharding.Mesh) -> Known:
        """What is known of a stack, computed; to be called within `working_precision`.

        It is kept while the next stack is worked on.
        """
        made = known_stack(stack, factorisation=self._route, mesh=mesh)
        if key is not None:
            self.settle()
            leaves = jax.tree.leaves(made)

            def keep() -> None:
                self._cache.write(key, dict(zip(_names(leaves), jax.device_get(leaves))))

            if self._writer is None:
                self._writer = ThreadPoolExecutor(1, thread_name_prefix="svdjax-keep")
            self._written.append(self._writer.submit(keep))
        return made

    def settle(self) -> None:
        """Returns when all that was made is kept, or another thread waits for it."""
        with contextlib.suppress(IndexError):
            while True:
                self._written.popleft().result()

    def close(self) -> None:
        """Waits until all is kept, and ends the thread that does it."""
        self.settle()
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None


def _names(leaves: Sequence[Any]) -> list[str]:
    """Of the arrays of an entry."""
    return [f"x{number}" for number in range(len(leaves))]


def kept_for(jobs: Sequence[PairJob], settings: Settings, workdir: pathlib.Path) -> Kept | None:
    """What is kept for a sweep; None where no checkpoint occurs twice, and none is to be kept.

    A directory that the config names keeps everything, for other sweeps.
    """
    wanted = kept_sources(jobs, settings)
    if not wanted:
        return None
    directory = settings.factor_cache or workdir / FOLDER
    cache = ArrayCache(directory, settings.factor_cache_bytes, note=note)
    return Kept(settings.factorisation, cache, wanted)


def group_budget(jobs: Sequence[PairJob], settings: Settings) -> int:
    """Bytes of a group as stored: less beside what is kept, in float64 up to 8 times bf16 ones."""
    return settings.group_bytes // (4 if kept_sources(jobs, settings) else 1)


def kept_sources(jobs: Sequence[PairJob], settings: Settings) -> set[str]:
    """Paths of the checkpoints that are worth keeping anything of."""
    if not get_factorisation(settings.factorisation).halves or not settings.factor_cache_bytes:
        return set()
    sides = [str(side.path) for job in jobs for side in (job.plan.base, job.plan.post)]
    return {path for path in sides if settings.factor_cache or sides.count(path) > 1}
