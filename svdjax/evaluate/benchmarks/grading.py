r"""Grading: is the last \boxed{…} of a response the right answer?

Letters are compared as letters. Mathematics is equal if the texts or the plain decimal numbers are,
and otherwise if math-verify says so, which knows fractions, units, sets, intervals and much more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Self

from svdjax.evaluate.benchmarks.comparing import Comparer
from svdjax.evaluate.benchmarks.extract import choice_letter, last_boxed
from svdjax.text.question import Question

MOST_CHARACTERS = 2000
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|[+-]?\.[0-9]+")


@dataclass(frozen=True)
class Verdict:
    """What became of a response.

    Attributes:
        correct: Whether the answer is right.
        extracted: The answer: the letter of an option, or the content of the box; None without box.
        reason: Why it could not be compared: "no box", "empty box", "not a choice", "too long",
            "timeout" or "not comparable"; "" where it was.
    """

    correct: bool
    extracted: str | None
    reason: str = ""


class Grader:
    """Grades responses; a context manager, because it may keep a process. Not for several threads.

    Verdicts are remembered: the same answer to the same gold is compared once.
    """

    def __init__(self, timeout: float = 10.0):
        """`timeout` is how many seconds the comparison of two answers may take.

        Raises:
            InputError: math-verify is not installed.
        """
        self._comparer = Comparer(timeout)
        self._known: dict[tuple[str, str], tuple[bool, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process, if there is one; it starts again when it is needed."""
        self._comparer.close()

    def grade(self, question: Question, response: str) -> Verdict:
        """Grade a response, whatever it holds.

        Raises:
            InputError: math-verify cannot be imported.
        """
        content = last_boxed(response)
        if content is None:
            return Verdict(False, None, "no box")
        content = content.strip()
        if not content:
            return Verdict(False, content, "empty box")
        if question.kind == "choice":
            letter = choice_letter(content, question.letters)
            if letter is None:
                return Verdict(False, content, "not a choice")
            return Verdict(letter == question.answer, letter)
        key = (question.answer.strip(), content)
        if key not in self._known:
            self._known[key] = self._compare(*key)
        return Verdict(self._known[key][0], content, self._known[key][1])

    def _compare(self, gold: str, answer: str) -> tuple[bool, str]:
        if gold == answer:
            return True, ""
        if max(len(gold), len(answer)) > MOST_CHARACTERS:
            return False, "too long"
        if _NUMBER.fullmatch(gold) and _NUMBER.fullmatch(answer):
            return _decimal(gold) == _decimal(answer), ""
        return self._comparer.compare(gold, answer)


def _decimal(text: str) -> Decimal:
    return Decimal(text.replace(",", ""))
