"""Prompts to probe models with: a ``.jsonl`` of {"prompt": …} or {"question": …}, or plain lines.

GSM8K's own files are such ``.jsonl`` files.
"""

from __future__ import annotations

import os
import pathlib
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from svdjax.errors import InputError, printable
from svdjax.text.lines import has_lone_surrogate, nonblank_lines, parse_record

_RECORD = 'expected {"prompt": …} or {"question": …} with a string'
_LINES = 'a prompt a line, or {"prompt": …} a line in a .jsonl'


@dataclass(frozen=True)
class PromptText:
    """A prompt, and where it stands: "FILE, line N"."""

    text: str
    location: str


def read_prompts(path: str | os.PathLike[str], limit: int = 0) -> tuple[PromptText, ...]:
    """Prompts of a file, in order.

    Args:
        path: The file; anything but .jsonl is plain text, a prompt a line.
        limit: Number of prompts to take, from the beginning; 0 takes all.

    Raises:
        InputError: It cannot be read, a line is not of the form, or it holds no prompt.
    """
    path = pathlib.Path(path)
    prompts: list[PromptText] = []
    for number, line in nonblank_lines(path, _LINES):
        if limit and len(prompts) == limit:
            break
        location = f"{path}, line {number}"
        if path.suffix == ".jsonl":
            text = _prompt(parse_record(line, location, _RECORD), location)
        else:
            text = line.rstrip("\r")
        prompts.append(PromptText(text, location))
    if not prompts:
        raise InputError(f"{path}: holds no prompt; expected at least one line that is not blank")
    return tuple(prompts)


def _prompt(record: Mapping[str, Any], location: str) -> str:
    key = next((key for key in ("prompt", "question") if key in record), None)
    if key is None:
        keys = printable(", ".join(record) or "no key", 200)
        raise InputError(f"{location}: {_RECORD}, found {keys}")
    value = record[key]
    if not isinstance(value, str) or not value.strip() or has_lone_surrogate(value):
        shown = printable(reprlib.repr(value), 80)
        raise InputError(f"{location}: {_RECORD} of ordinary text as {key}, found {shown}")
    return value
