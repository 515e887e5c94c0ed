"""The paper's system prompts and its template of multiple-choice questions.

A question's text is taken as it is, outer blanks included.
"""

from __future__ import annotations

from collections.abc import Sequence

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


def multiple_choice(question: str, options: Sequence[str]) -> str:
    """User's turn of a question with four or five options."""
    letters = LETTERS[: len(options)]
    return question + OPTIONS.format(
        number=_NUMBERS[len(options)],
        options=" ".join(f"{letter}.{option}" for letter, option in zip(letters, options)),
        letters=f"{', '.join(letters[:-1])} or {letters[-1]}",
    )
