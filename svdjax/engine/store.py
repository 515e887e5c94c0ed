"""Results of a pair on disk: a dataclass whose arrays lie in npz files, and the rest in one JSON.

    @dataclass(frozen=True)
    class TrialResults(Results):
        FILE = "trial.json"

        pair: str
        loss: float
        values: Mapping[str, np.ndarray] = field(metadata=in_npz({"trial.npz": ()}))

`Results.save` writes it and `Results.load` reads it; both know the fields by their annotations.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import pathlib
import typing
import urllib.parse
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np

from svdjax.atomic import plain, read_npz, write_json, write_npz
from svdjax.errors import InputError

FORMAT_VERSION = 1
"""Of the JSON that results are stored as."""
_NPZ, _ADDED = "npz", "added"
ADDED: Mapping[str, Any] = {_ADDED: True}
"""Metadata of a field that files of earlier versions lack: it takes its default then."""
_type_hints = functools.cache(typing.get_type_hints)


def in_npz(files: Mapping[str, Sequence[str]]) -> Mapping[str, Any]:
    """Metadata of a field of arrays, a mapping or a named tuple, which lie in npz files.

    Args:
        files: File to the names of the arrays in it: fields of the named tuple, or attributes of
            the dataclass. The arrays of a mapping follow them.
    """
    return {_NPZ: files}


class NpzFiles(dict[str, dict[str, np.ndarray]]):
    """Arrays of a directory's npz files, by file and name; read when they are first asked for."""

    def __init__(self, folder: pathlib.Path):
        super().__init__()
        self.folder = folder

    def __missing__(self, file: str) -> dict[str, np.ndarray]:
        # Earlier versions encoded the "*" of names of several layers.
        held = read_npz(self.folder / file)
        self[file] = {name.replace("%2A", "*"): array for name, array in held.items()}
        return self[file]


class Results:
    """Base of a dataclass of results.

    Arrays of dataclasses that are values of a field, a mapping, lie in the same files, each under
    its key (`array_name`).

    Attributes:
        FILE: Name of the JSON file, which holds every field but those `in_npz`.
        DAMAGED: What the message about damaged files starts with.
    """

    FILE: ClassVar[str]
    DAMAGED: ClassVar[str] = "{file} is missing or damaged"
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def entries(self) -> dict[str, Any]:
        """Entries of the JSON file: the fields; a class may add what follows from them."""
        return to_json(self)

    def summary(self) -> dict[str, Any]:
        """Content of the JSON file, JSON-able: NaN is None."""
        return plain({"format_version": FORMAT_VERSION, **self.entries()})

    def save(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes the npz files, then the JSON file, each whole or not at all; returns the latter.

        Args:
            directory: The pair's; made where it is missing.
        """
        folder = pathlib.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for file, arrays in _npz_content(self).items():
            write_npz(folder / file, arrays)
        return write_json(folder / self.FILE, self.summary())

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Self:
        """Results as `save` wrote them.

        Raises:
            InputError: A file is missing, damaged, or of another format version.
        """
        folder = pathlib.Path(directory)
        file, arrays = folder / cls.FILE, NpzFiles(folder)
        try:
            stored = json.loads(file.read_text(encoding="utf-8"))
            if stored["format_version"] != FORMAT_VERSION:
                raise InputError(
                    f"{file} has format_version {stored['format_version']!r}, this svdjax reads "
                    f"{FORMAT_VERSION}"
                )
            cls._complete(stored, arrays)
            return from_json(cls, stored, arrays)
        except InputError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{cls.DAMAGED.format(file=file, folder=folder)} ({type(error).__name__}: "
                f"{error}); run the sweep again in a new workdir"
            ) from error

    @classmethod
    def _complete(cls, stored: dict[str, Any], arrays: NpzFiles) -> None:
        """Checks what the files hold, and adds in place what earlier versions did not write."""


def array_name(key: str | None, name: str) -> str:
    """Name of an array in an npz file: ``q_proj/nf``; without a key its own.

    Tensors of unknown architectures may be called anything; what could lead an unpacker out of its
    directory is percent-encoded.
    """
    if key is None:
        return name
    safe = urllib.parse.quote(key, safe="[]{}()+,:@* ")
    if not safe.strip("."):
        safe = "%2E" * len(safe) or "%"
    return f"{safe}/{name}"


def to_json(value: Any) -> Any:
    """Dataclasses, at any depth of mappings, as dicts of those of their fields that JSON holds."""
    if dataclasses.is_dataclass(value):
        fields = (field for field in dataclasses.fields(value) if _NPZ not in field.metadata)
        return {field.name: to_json(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(kind: Any, value: Any, arrays: NpzFiles | None = None, key: str | None = None) -> Any:
    """An object of an annotated type from its JSON, where NaN is null, and its arrays.

    A field ``name`` that JSON lacks is the key of a mapping's value.

    Args:
        kind: A dataclass, a mapping, list or tuple, float, or anything JSON knows.
        value: What JSON holds of it.
        arrays: What the npz files hold.
        key: Key of a mapping's value, under which its arrays lie.

    Raises:
        KeyError: A field or array is missing.
        AttributeError, TypeError: The JSON is of something else.
        OSError, ValueError: An npz file is missing or damaged.
    """
    origin, items = typing.get_origin(kind), typing.get_args(kind)
    if origin in (dict, Mapping):
        return {name: from_json(items[1], item, arrays, name) for name, item in value.items()}
    if origin in (list, tuple):
        return origin(from_json(items[0], item) for item in value)
    if not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        return math.nan if kind is float and value is None else value
    hints, stored, fields = _type_hints(kind), {"name": key, **value}, {}
    for field in dataclasses.fields(kind):
        hint, files = hints[field.name], field.metadata.get(_NPZ)
        if files:
            assert arrays is not None
            held = ChainMap(*(arrays[file] for file in files))
            if hasattr(hint, "_fields"):
                fields[field.name] = hint(*(held[array_name(key, name)] for name in hint._fields))
            else:
                (beside,) = files.values()
                fields[field.name] = {k: array for k, array in held.items() if k not in beside}
        elif field.name in stored or _ADDED not in field.metadata:
            fields[field.name] = from_json(hint, stored[field.name], arrays)
    return kind(**fields)


def _npz_content(results: Any) -> dict[str, dict[str, Any]]:
    """Content of the npz files, by file and name; a file without any array is not written."""
    owners, content = {None: results}, {}
    for field in dataclasses.fields(results):
        held = getattr(results, field.name)
        if isinstance(held, Mapping):
            owners |= {key: item for key, item in held.items() if dataclasses.is_dataclass(item)}
    for key, owner in owners.items():
        for field in dataclasses.fields(owner):
            held = getattr(owner, field.name)
            for file, names in field.metadata.get(_NPZ, {}).items():
                own = getattr(held, "_fields", ())
                arrays = {name: getattr(held if name in own else owner, name) for name in names}
                arrays |= held if isinstance(held, Mapping) else {}
                named = {array_name(key, name): array for name, array in arrays.items()}
                content.setdefault(file, {}).update(named)
    return {file: arrays for file, arrays in content.items() if arrays}
