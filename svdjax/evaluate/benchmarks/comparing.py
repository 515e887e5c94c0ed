"""Comparing two answers as mathematics in a process of its own, which may hang, or die."""

from __future__ import annotations

import importlib.util
import pathlib

from svdjax.errors import InputError
from svdjax.text.isolated import Lost, Unavailable, Worker

MOST_MEMORY = 2 << 30
_HANDLER = pathlib.Path(__file__).with_name("worker.py")
_INSTALL = "answers are compared by math-verify, which {why}; pip install math-verify"


class Comparer:
    """Starts the worker when it is needed, and again when it had to be ended.

    Not for several threads at a time.
    """

    def __init__(self, timeout: float):
        """`timeout` is how many seconds a comparison may take.

        Raises:
            InputError: math-verify is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise InputError(_INSTALL.format(why="is not installed"))
        self._timeout = timeout
        self.worker = Worker(_HANDLER, MOST_MEMORY)

    def compare(self, gold: str, answer: str) -> tuple[bool, str]:
        """Whether two answers are the same, and if that cannot be said, why: else "".

        Raises:
            InputError: math-verify cannot be imported.
        """
        try:
            reply = self.worker.ask({"gold": gold, "answer": answer}, self._timeout)
        except Lost as lost:
            return False, "timeout" if lost.timed_out else "not comparable"
        except Unavailable as error:
            raise InputError(_INSTALL.format(why=error)) from None
        if "error" in reply:
            return False, "not comparable"
        return reply["equal"], reply["reason"]

    def close(self) -> None:
        """Ends the worker, if there is one."""
        self.worker.close()
