"""Reading text that somebody else wrote: bounded, UTF-8, and told in one line where it is not."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from svdjax.errors import InputError, printable
from svdjax.files import one_line, open_regular

MOST_BYTES = 256 << 20
MOST_LINE_BYTES = 16 << 20
MOST_LINES = 1 << 20
_FORMATS = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x1f\x8b": "compressed by gzip",
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
}


def text_lines(path: str | os.PathLike[str], wanted: str = "a text") -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their ends, each with its number from 1.

    They are read one by one, so that what lies beyond the last one taken is not looked at. The byte
    order mark is left out.

    Args:
        path: The file; `~` is expanded.
        wanted: What was expected, for errors.

    Raises:
        InputError: It is missing, no regular file, of another format, or not UTF-8; or the file, a
            line or the number of lines is too large.
    """
    where = pathlib.Path(path)
    try:
        found = where.expanduser()
    # No such user.
    except RuntimeError as error:
        raise InputError(f"{where}: {error}; expected a file") from None
    with open_regular(found) as stream:
        left = MOST_BYTES
        for number in range(1, MOST_LINES + 2):
            try:
                line = stream.readline(min(MOST_LINE_BYTES, left) + 1)
            except OSError as error:
                raise InputError(f"{where}: cannot be read ({one_line(error)})") from None
            if not line:
                return
            left -= len(line)
            if left < 0:
                raise InputError(
                    f"{where}: holds more than {MOST_BYTES >> 20} MiB of text, the most that is "
                    "read; cut it into smaller files, or set a limit"
                )
            if len(line) > MOST_LINE_BYTES:
                raise InputError(
                    f"{where}, line {number}: is longer than {MOST_LINE_BYTES >> 20} MiB, the most "
                    f"that is read; expected {wanted}"
                )
            if number > MOST_LINES:
                raise InputError(
                    f"{where}: holds more than {MOST_LINES} lines, the most that are read; cut it "
                    "into smaller files, or set a limit"
                )
            if number == 1:
                _refuse_other_formats(line, where, wanted)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{where}, line {number}: is not UTF-8 text ({error.reason}); save the file "
                    "as UTF-8"
                ) from None
            yield number, text


def _refuse_other_formats(line: bytes, where: pathlib.Path, wanted: str) -> None:
    for magic, name in _FORMATS.items():
        if line.startswith(magic):
            raise InputError(f"{where}: is {name}; convert it first; expected {wanted}")


def filled_lines(path: str | os.PathLike[str], wanted: str = "a text") -> Iterator[tuple[int, str]]:
    """The lines that are not blank, without their ends, each with its number from 1.

    Args:
        path: As `text_lines` takes it, which says what is raised.
        wanted: What was expected, for errors.
    """
    # Not splitlines, which also splits at separators that may stand inside a text.
    for number, line in text_lines(path, wanted):
        if line.strip():
            yield number, line.removesuffix("\n")


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
