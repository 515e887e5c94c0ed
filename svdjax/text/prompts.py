"""Prompts to probe models with: a ``.jsonl`` of {"prompt": …} or {"question": …}, or plain lines.

GSM8K's own files are of the first kind.
"""

from __future__ import annotations

import os
import pathlib
import reprlib
from dataclasses import dataclass

from svdjax.errors import InputError, printable
from svdjax.text.reading import filled_lines, has_half_a_surrogate, parse_record

_WANTED = 'expected {"prompt": …} or {"question": …} with a string'
_LINES = 'a prompt a line, or {"prompt": …} a line in a .jsonl'


@dataclass(frozen=True)
class PromptText:
    """A prompt, and where it stands: "FILE, line N"."""

    text: str
    place: str


def read_prompts(path: str | os.PathLike[str], limit: int = 0) -> tuple[PromptText, ...]:
    """Read a file of prompts.

    Args:
        path: The file; anything but .jsonl is plain text, a prompt a line.
        limit: How many to take, from the beginning; 0 takes all.

    Raises:
        InputError: It cannot be read, a line is not of the form, or it holds no prompt.
    """
    where = pathlib.Path(path)
    found: list[PromptText] = []
    for number, line in filled_lines(where, _LINES):
        if limit and len(found) == limit:
            break
        place = f"{where}, line {number}"
        if where.suffix != ".jsonl":
            found.append(PromptText(line.rstrip("\r"), place))
            continue
        record = parse_record(line, place, _WANTED)
        key = next((key for key in ("prompt", "question") if key in record), None)
        if key is None:
            keys = printable(", ".join(record) or "no key", 200)
            raise InputError(f"{place}: {_WANTED}, found {keys}")
        value = record[key]
        if not isinstance(value, str) or not value.strip() or has_half_a_surrogate(value):
            shown = printable(reprlib.repr(value), 80)
            raise InputError(f"{place}: {_WANTED} of ordinary text as {key}, found {shown}")
        found.append(PromptText(value, place))
    if not found:
        raise InputError(f"{where}: holds no prompt; expected at least one line that is not blank")
    return tuple(found)
