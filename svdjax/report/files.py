"""Bytes to a file, whole or not at all."""

from __future__ import annotations

import pathlib
from typing import IO

from svdjax.atomic import write_atomically


def write(path: pathlib.Path, data: bytes) -> pathlib.Path:
    """Writes a file atomically, its folder made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def whole(file: IO[bytes]) -> None:
        file.write(data)

    return write_atomically(path, whole)
