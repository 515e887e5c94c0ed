"""Questions of benchmarks, the paper's system prompts, and its multiple-choice template.

A question's text is taken as it is, outer blanks included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

SYSTEM = r"Please put your final answer within \boxed{}."
SYSTEM_SHORT = (
    r"Please put your final answer within \boxed{} and keep your thought process as short as "
    "possible."
)
# The paper's wording, which is for four options.
OPTIONS = (
    " You have {number} options, and they are: {options} Please select the correct option and just "
    "give {letters}. For example, if you think the answer is A, just give \\boxed{{A}} as the "
    "answer."
)
LETTERS = "ABCDE"
_NUMBERS = {4: "four", 5: "five"}


@dataclass(frozen=True)
class Question:
    """A question with its gold answer.

    Attributes:
        id: Unique within its benchmark.
        text: The user's turn, with the options and the instruction of a multiple-choice question.
        system: The system prompt.
        answer: The gold answer; of a multiple-choice question its letter.
        kind: "number", compared as a number with or without a unit, "math", compared as
            mathematics, or "choice", compared as a letter.
        letters: The letters of the options of a multiple-choice question, such as "ABCD".
        group: The part of the benchmark it belongs to, such as a subject; empty where there is one.
        stem: The question without options and instruction, where the options' order is drawn.
        options: The options in the order of `text`, where that is drawn; else empty.
    """

    id: str
    text: str
    system: str
    answer: str
    kind: Literal["number", "math", "choice"]
    letters: str = ""
    group: str = ""
    stem: str = ""
    options: tuple[str, ...] = ()


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """User's turn of a question with four or five options."""
    letters = LETTERS[: len(options)]
    return question + OPTIONS.format(
        number=_NUMBERS[len(options)],
        options=" ".join(f"{letter}.{option}" for letter, option in zip(letters, options)),
        letters=f"{', '.join(letters[:-1])} or {letters[-1]}",
    )
