"""Journal of a sweep: one file per finished group, so that a kill loses the group in flight alone.

A file's name is the digest of everything that determines its numbers. Files are written atomically
and still not trusted: checksums, key, fields and shapes are checked on reading, and a group whose
file fails is computed again.
"""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import numpy as np

from svdjax.atomic import plain, read_npz, remove_leftovers, write_npz
from svdjax.checkpoint import digest_of
from svdjax.engine.groups import Group
from svdjax.spectral import PairMetrics

JOURNAL_VERSION = 1
_KEY = "journal_key"


class Journal:
    """Journal of one pair, a directory of npz files."""

    def __init__(self, directory: pathlib.Path, identity: Any, *, clean: bool = True):
        """Opens the journal; makes its directory.

        Args:
            directory: Directory of the files.
            identity: JSON-able; all that determines the numbers beside the group itself: input
                digests, factorisation, corner, versions.
            clean: Whether temporary files of killed writers are removed; not while others write.
        """
        self.directory = directory
        # Of large models the inputs' digests are long, and the groups are many.
        self._identity = digest_of(plain(identity))
        directory.mkdir(parents=True, exist_ok=True)
        if clean:
            remove_leftovers([directory])

    def key(self, group: Group) -> str:
        """Digest of the identity and the group."""
        projection = group.projection
        return digest_of(
            [
                JOURNAL_VERSION,
                self._identity,
                projection.name,
                projection.shape,
                projection.tensors[group.start : group.stop],
                projection.transposed,
                projection.rows,
                group.length,
            ]
        )

    def write(self, group: Group, metrics: PairMetrics) -> None:
        """Writes the metrics of a group."""
        key = self.key(group)
        write_npz(self._path(key), {_KEY: np.array(key), **metrics._asdict()})

    def read(self, group: Group) -> PairMetrics | None:
        """Metrics of a group; None where they are missing or damaged."""
        key = self.key(group)
        path = self._path(key)
        if not path.is_file():
            return None
        try:
            arrays = read_npz(path)
        except (OSError, ValueError):
            arrays = {}
        if str(arrays.pop(_KEY, "")) != key or not _fits(arrays, group):
            path.unlink()
            return None
        return PairMetrics(**arrays)

    def remove(self) -> None:
        """Deletes the journal, once its metrics are in the pair's files."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _path(self, key: str) -> pathlib.Path:
        return self.directory / f"{key[:32]}.npz"


def _fits(arrays: dict[str, np.ndarray], group: Group) -> bool:
    if set(arrays) != set(PairMetrics._fields):
        return False
    layers, rank = group.stop - group.start, min(group.projection.shape)
    return arrays["sigma_base"].shape == (layers, rank) and all(
        array.ndim > 0 and len(array) == layers for array in arrays.values()
    )
