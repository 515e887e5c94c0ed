"""The journal of a stage's units: one npz for each, named by the unit's key."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import numpy as np

from svdjax.atomic import read_npz, write_npz

Value = TypeVar("Value")


class UnitJournal(Generic[Value]):
    """Results of units on disk; a file that is damaged is one that is missing.

    Attributes:
        directory: Of the files; `svdjax.engine.context.Context.journal` makes and removes it.
    """

    def __init__(self, directory: pathlib.Path, make: Callable[[Mapping[str, np.ndarray]], Value]):
        """Touches nothing yet.

        Args:
            directory: Of the files.
            make: What the arrays of a file are; raises `KeyError` where one is missing.
        """
        self.directory, self._make = directory, make
        self._whole: set[str] = set()

    def __contains__(self, key: str) -> bool:
        if key not in self._whole:
            with contextlib.suppress(OSError, ValueError, KeyError):
                self.read(key)
        return key in self._whole

    def count(self, keys: Iterable[str]) -> int:
        """How many of some units it has, of those that were looked for or written."""
        return sum(key in self._whole for key in keys)

    def read(self, key: str) -> Value:
        """The result of a unit.

        Raises:
            OSError, ValueError, KeyError: It is missing or damaged.
        """
        value = self._make(read_npz(self._path(key)))
        self._whole.add(key)
        return value

    def write(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Keeps the result of a unit."""
        write_npz(self._path(key), arrays)
        self._whole.add(key)

    def _path(self, key: str) -> pathlib.Path:
        return self.directory / f"{key}.npz"
