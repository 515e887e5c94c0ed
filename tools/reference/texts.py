"""Held-out text of the post-trained members: questions with the right answer in their own format.

Ten questions of each pattern, half of them with a template that was never trained; each post model
is asked the same ones.
"""

from __future__ import annotations

import itertools
import json
import pathlib

from svdjax.reference import heldout_path, text_path

from .chat import chat
from .problems import PATTERNS, heldout_problems
from .solutions import long, short

PER_PATTERN = 10
_ANSWERS = {"instruct": short, "reasoning": long}


def records(name: str) -> list[dict[str, str]]:
    """The lines of the text of one member: {"prompt", "completion"}."""
    answer = _ANSWERS[name]
    chosen = itertools.islice(heldout_problems(), PER_PATTERN * len(PATTERNS))
    parts = [chat(problem.question, "", answer(problem)) for problem in chosen]
    return [{"prompt": prompt, "completion": completion} for prompt, completion in parts]


def write(folder: pathlib.Path | None = None) -> list[pathlib.Path]:
    """Writes the texts, the same ones every time, beside the held-out questions (or elsewhere)."""
    written = []
    for name in _ANSWERS:
        path = (folder or heldout_path().parent) / text_path(name).name
        lines = [json.dumps(record) + "\n" for record in records(name)]
        path.write_text("".join(lines), encoding="utf-8")
        written.append(path)
    return written
