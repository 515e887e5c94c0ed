"""Exceptions that the command line turns into one line and an exit status."""

from __future__ import annotations

import difflib
import importlib.util
import re
import signal
from collections.abc import Iterable

MOST_IN_LINE = 1900  # characters of a line on stderr
MOST_IN_WORD = 300  # characters without a space: a name, a path, a number


class InputError(ValueError):
    """The user's input cannot be used.

    The message is one line that names the file and tensor (or flag), the expected and the actual
    value, and a remedy. The commands print it on stderr and end with exit status 2.
    """

    def __init__(self, message: str):
        super().__init__(as_line(str(message)))


class Interrupted(BaseException):
    """Work was stopped on request, at a point from which the same command goes on.

    Like `KeyboardInterrupt` it is no `Exception`, so that no handler of faults catches it.

    Attributes:
        status: Exit status by the shell's convention, 128 + the number of the signal.
    """

    def __init__(self, message: str, signum: int = signal.SIGTERM):
        super().__init__(as_line(message))
        self.status = 128 + signum


class WorkersLost(BaseException):
    """Other processes that compute for this one are lost, or some of what they were to do is.

    It is no `Exception`, for the same reason as `Interrupted`.

    Attributes:
        status: Exit status, 3.
    """

    status = 3

    def __init__(self, message: str):
        super().__init__(as_line(message))


def missing_extra(package: str, extra: str, what: str) -> str:
    """One line on what to install where a package of an extra is not there; empty where it is."""
    if importlib.util.find_spec(package) is not None:
        return ""
    name = package.replace("_", "-")
    return f"{what} {name}, which is not installed: pip install 'svdjax[{extra}]'"


def as_line(text: str) -> str:
    """One printable line: white space is one space, long words and lines are cut."""
    words = (
        printable(word, MOST_IN_WORD) if len(word) > MOST_IN_WORD else printable(word)
        for word in re.split(r"\s+", text.strip())
    )
    return printable(" ".join(words), MOST_IN_LINE)


def printable(text: str, most: int | None = None) -> str:
    """Text that is safe in a log line: control characters escaped, the middle cut if long.

    Names of tensors and files come from untrusted input.
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    if most is not None and len(shown) > most:
        shown = f"{shown[: most // 2]}…{shown[-(most - most // 2 - 1) :]}"
    return shown


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """``; did you mean 'eq11'?`` where a known name is close to `name`, else empty.

    Close are names that end with it after a dot, that are spelt alike, and that begin with it.
    """
    word, known = str(name), list(known)
    near = [each for each in known if word and each.endswith(f".{word}")]
    near = near or difflib.get_close_matches(word, known, n=1)
    near = near or [each for each in known if word and each.startswith(word)]
    return f"; did you mean {near[0]!r}?" if near else ""
