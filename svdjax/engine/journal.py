"""One file per finished group, so that a killed sweep loses at most the group in flight.

A file's name is the digest of everything that determines its numbers. It is written whole or not
at all, and still never trusted: checksums, key, fields and shapes are checked on reading, and what
fails is computed again.
"""

from __future__ import annotations

import hashlib
import json
import pathlib
import shutil
from typing import Any

import numpy as np

from svdjax.atomic import plain, read_npz, remove_leftovers, write_npz
from svdjax.engine.groups import Group
from svdjax.spectral import PairMetrics

JOURNAL_VERSION = 1
_KEY = "journal_key"


class Journal:
    """The journal of one pair, a directory of npz files."""

    def __init__(self, directory: pathlib.Path, identity: Any, *, clean: bool = True):
        """Opens (and makes) the journal.

        Args:
          directory: where the files lie.
          identity: JSON-able; input digests, factorisation, corner, versions: whatever, beside
            the group itself, determines the numbers.
          clean: remove what killed writers left; not while others may be writing.
        """
        self.directory = directory
        self.identity = plain(identity)
        directory.mkdir(parents=True, exist_ok=True)
        if clean:
            remove_leftovers([directory])

    def key(self, group: Group) -> str:
        """Digest of the identity and the group."""
        projection = group.projection
        text = json.dumps(
            [
                JOURNAL_VERSION,
                self.identity,
                projection.name,
                plain(projection.shape),
                plain(projection.tensors[group.start : group.stop]),
                projection.transposed,
                plain(projection.rows),
                group.length,
            ],
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def write(self, group: Group, metrics: PairMetrics) -> None:
        """Keeps the numbers of a group."""
        key = self.key(group)
        write_npz(self._path(key), {_KEY: np.array(key), **metrics._asdict()})

    def read(self, group: Group) -> PairMetrics | None:
        """Returns the numbers of a group, or None where they are missing or not to be trusted."""
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
        """Deletes the journal; its numbers are in the pair's files by now."""
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
