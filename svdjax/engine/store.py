"""How results lie on disk: one JSON file with a version, and damage told in one line."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from svdjax.errors import InputError

FORMAT_VERSION = 1
"""Of the JSON that results are stored as."""
Read = TypeVar("Read")


def stored_fields(path: pathlib.Path, kind: type, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass, as its JSON file has them; `without` those that it has not.

    Raises:
      InputError: the file is of another format version.
    """
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {stored['format_version']!r}, this svdjax reads "
            f"{FORMAT_VERSION}"
        )
    return {name: stored[name] for name in kind.__dataclass_fields__ if name not in without}


def read_results(
    directory: str | os.PathLike[str], file: str, read: Callable[[pathlib.Path], Read]
) -> Read:
    """What `read` makes of a pair's directory; whatever is wrong with `file` is one error.

    Raises:
      InputError: it is missing, damaged, or of another format version.
    """
    folder = pathlib.Path(directory)
    try:
        return read(folder)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / file} is missing or damaged ({type(error).__name__}: {error}); run the "
            "sweep again in a new workdir"
        ) from error
