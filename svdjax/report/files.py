"""Atomic files of a report."""

from __future__ import annotations

import pathlib

from svdjax.atomic import write_atomically


def write(path: pathlib.Path, data: bytes) -> pathlib.Path:
    """Writes a file atomically, with the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, lambda file: file.writelines([data]))
