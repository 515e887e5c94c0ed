"""Lines and JSON records of untrusted text files: bounded, UTF-8, one error line otherwise."""

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
    b"\xfd7zXZ\x00": "compressed by xz",
    b"BZh": "compressed by bzip2",
    b"%PDF-": "a PDF file",
    b"SQLite format 3": "a database of SQLite",
    b"<!DOCTYPE": "a page of HTML",
    b"<!doctype": "a page of HTML",
    b"<html": "a page of HTML",
    b"version https://git-lfs": "a pointer of Git LFS in the place of a file (git lfs pull)",
}


def text_lines(path: str | os.PathLike[str], expected: str = "a text") -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file with their ends, each with its number from 1.

    They are read one by one, so that nothing beyond the last one taken is looked at. The byte order
    mark is left out.

    Args:
        path: The file; `~` is expanded.
        expected: What was expected, for errors.

    Raises:
        InputError: It is missing, no regular file, of another format, or not UTF-8; or the file, a
            line or the number of lines is too large.
    """
    path = pathlib.Path(path)
    with open_regular(expanded(path)) as stream:
        remaining = MOST_BYTES
        for number in range(1, MOST_LINES + 2):
            try:
                line = stream.readline(min(MOST_LINE_BYTES, remaining) + 1)
            except OSError as error:
                raise InputError(f"{path}: cannot be read ({one_line(error)})") from None
            if not line:
                return
            remaining -= len(line)
            if remaining < 0:
                raise InputError(
                    f"{path}: holds more than {MOST_BYTES >> 20} MiB of text, the most that is "
                    "read; cut it into smaller files, or set a limit"
                )
            if len(line) > MOST_LINE_BYTES:
                raise InputError(
                    f"{path}, line {number}: is longer than {MOST_LINE_BYTES >> 20} MiB, the most "
                    f"that is read; expected {expected}"
                )
            if number > MOST_LINES:
                raise InputError(
                    f"{path}: holds more than {MOST_LINES} lines, the most that are read; cut it "
                    "into smaller files, or set a limit"
                )
            if number == 1:
                _refuse_other_formats(line, path, expected)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}, line {number}: is not UTF-8 text ({error.reason}); save the file "
                    "as UTF-8"
                ) from None
            yield number, text


def expanded(path: pathlib.Path) -> pathlib.Path:
    """A path whose `~` is expanded; raises `InputError` where there is no such user."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}; expected a file") from None


def _refuse_other_formats(line: bytes, path: pathlib.Path, expected: str) -> None:
    for magic, name in _FORMATS.items():
        if line.startswith(magic):
            raise InputError(f"{path}: is {name}; convert it first; expected {expected}")


def nonblank_lines(
    path: str | os.PathLike[str], expected: str = "a text"
) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 file that are not blank, without their ends; otherwise as `text_lines`."""
    # Not splitlines, which also splits at separators that may stand inside a text.
    for number, line in text_lines(path, expected):
        if line.strip():
            yield number, line.removesuffix("\n")


def parse_record(line: str, location: str, expected: str) -> dict[str, Any]:
    """JSON object of a line.

    Args:
        line: The line.
        location: File and line, for errors.
        expected: What was expected, for errors.

    Raises:
        InputError: It is not valid JSON, or no object.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = printable(str(error), 200)
        raise InputError(f"{location}: is not valid JSON ({why}); {expected}") from None
    if not isinstance(record, dict):
        raise InputError(f"{location}: {expected}, found {type(record).__name__}")
    return record


def has_lone_surrogate(text: str) -> bool:
    """Whether a text holds half a surrogate pair: JSON can write it, no tokenizer can read it."""
    return any("\ud800" <= letter <= "\udfff" for letter in text)
