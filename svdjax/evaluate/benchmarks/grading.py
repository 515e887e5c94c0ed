r"""Grading: whether the last \boxed{…} of a response is the right answer.

Letters are compared as letters. Mathematics is equal if the texts or the plain decimal numbers are
(where the answer is a number, units are left aside), and otherwise if math-verify says so, which
knows fractions, units, sets, intervals and much more. It runs in a worker process, because some
answers take forever or all memory.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from svdjax.errors import InputError, missing_extra
from svdjax.evaluate.benchmarks.extract import choice_letter, last_boxed
from svdjax.evaluate.benchmarks.numerals import is_percentage, number_with_unit, plain_number
from svdjax.evaluate.benchmarks.questions import Question
from svdjax.text.worker import Worker, WorkerLost, WorkerUnavailable

MOST_CHARACTERS = 2000
MOST_MEMORY = 2 << 30
_HANDLER = pathlib.Path(__file__).with_name("math_handler.py")
GRADING = "answers are compared by"


@dataclass(frozen=True)
class Verdict:
    """Grade of a response.

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

    Verdicts are cached: the same answer to the same gold is compared once.

    Args:
        timeout: Seconds that the comparison of two answers may take.

    Raises:
        InputError: math-verify is not installed.
    """

    def __init__(self, timeout: float = 10.0):
        if missing := missing_extra("math_verify", "eval", GRADING):
            raise InputError(missing)
        self.worker, self._timeout = Worker(_HANDLER, MOST_MEMORY), timeout
        self._cache: dict[tuple[str, str, str], tuple[bool, str]] = {}

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
        self.worker.close()

    def grade(self, question: Question, response: str) -> Verdict:
        """Verdict on a response, whatever it holds.

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
        key = (question.kind, question.answer.strip(), content)
        if key not in self._cache:
            self._cache[key] = self._compare(*key)
        correct, reason = self._cache[key]
        return Verdict(correct, content, reason)

    def _compare(self, kind: str, gold: str, answer: str) -> tuple[bool, str]:
        if gold == answer:
            return True, ""
        if max(len(gold), len(answer)) > MOST_CHARACTERS:
            return False, "too long"
        numbers = plain_number(gold), plain_number(answer)
        if kind == "number" and numbers[0] is not None:
            # A per cent sign is no unit: it makes another number of it.
            if is_percentage(answer):
                return False, ""
            numbers = numbers[0], number_with_unit(answer)
        if None not in numbers:
            return numbers[0] == numbers[1], ""
        return self.verify(gold, answer)

    def verify(self, gold: str, answer: str) -> tuple[bool, str]:
        """Whether math-verify says that two answers are equal, and why it cannot, else "".

        Raises:
            InputError: math-verify cannot be imported.
        """
        try:
            reply = self.worker.ask({"gold": gold, "answer": answer}, self._timeout)
        except WorkerLost as error:
            return False, "timeout" if error.timed_out else "not comparable"
        except WorkerUnavailable as error:
            raise InputError(
                f"{GRADING} math-verify, which {error}; pip install 'svdjax[eval]'"
            ) from None
        return reply.get("equal", False), reply.get("reason", "not comparable")
