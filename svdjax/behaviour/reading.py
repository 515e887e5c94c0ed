"""Reading text that somebody else wrote: bounded, UTF-8, and told in one line where it is not."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from svdjax.errors import InputError, printable

MOST_BYTES = 256 << 20


def read_text(path: str | os.PathLike[str], most: int) -> str:
    """The content of a UTF-8 file, without its byte order mark.

    Args:
        path: The file; `~` is expanded.
        most: How many bytes it may hold.

    Raises:
        InputError: It is missing, no ordinary file, too large, or not UTF-8.
    """
    where = pathlib.Path(path)
    try:
        found = where.expanduser()
        special = found.exists() and not found.is_file()
        content = b"" if special else _head(found, most + 1)
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}); expected a file") from None
    # No such user, or a name with NUL in it.
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{where}: {error}; expected a file") from None
    if special:
        raise InputError(f"{where}: is a directory or device; expected a file of text")
    if len(content) > most:
        raise InputError(
            f"{where}: holds more than {most >> 20} MiB of text, the most that is read; "
            "cut it into smaller files"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{where}, line {line}: is not UTF-8 text ({error.reason}); save the file as UTF-8"
        ) from None


def _head(path: pathlib.Path, most: int) -> bytes:
    # Not by its size on disk, which may change in the meantime.
    with path.open("rb") as file:
        return file.read(most)


def filled_lines(content: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, each with its number from 1."""
    # Not splitlines, which also splits at separators that may stand inside a text.
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield number, line


def parse_record(line: str, place: str, wanted: str) -> dict[str, Any]:
    """The JSON object that a line holds.

    Args:
        line: The line.
        place: File and line, for errors.
        wanted: What was expected, for errors.

    Raises:
        InputError: It is not valid JSON, or no object.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = printable(str(error), 200)
        raise InputError(f"{place}: is not valid JSON ({why}); {wanted}") from None
    if not isinstance(record, dict):
        raise InputError(f"{place}: {wanted}, found {type(record).__name__}")
    return record


def has_half_a_surrogate(text: str) -> bool:
    """Whether a text holds what JSON can write and no tokenizer can read."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)
