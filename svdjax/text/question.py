"""Questions of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Question:
    """A question with its gold answer.

    Attributes:
        id: Unique within its benchmark.
        text: The user's turn, with the options and the instruction of a multiple-choice question.
        system: The system prompt.
        answer: The gold answer; of a multiple-choice question its letter.
        kind: "math", compared as mathematics, or "choice", compared as a letter.
        letters: The letters of the options of a multiple-choice question, such as "ABCD".
        group: The part of the benchmark it belongs to, such as a subject; empty where there is one.
        stem: The question without options and instruction, where the options' order is drawn.
        options: The options in the order of `text`, where that is drawn; else empty.
    """

    id: str
    text: str
    system: str
    answer: str
    kind: Literal["math", "choice"]
    letters: str = ""
    group: str = ""
    stem: str = ""
    options: tuple[str, ...] = ()
