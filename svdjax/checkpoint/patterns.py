"""Regular expressions from files and flags, matched in a process of their own.

`re` backtracks, for some expressions practically without end, and nothing in its process can stop
it. Linear engines know no look-aheads, which adapters use: ``^(?!.*vision).*proj$``.
"""

from __future__ import annotations

import functools
import json
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from svdjax.errors import InputError

_SECONDS = 4.0  # of the process, which has done its usual work in a twentieth of one
_PLAIN = re.compile(r"[\w-]+")


class Rule(NamedTuple):
    """Regular expression, and how it is matched.

    Attributes:
        pattern: Expression in the syntax of `re`.
        method: Method of the compiled expression: "match", "fullmatch" or "search".
        what: File and field or flag, and what is written there, for messages.
    """

    pattern: str
    method: str
    what: str


def is_plain(pattern: str) -> bool:
    """Whether an expression is just a name, which matches itself and needs no process."""
    return _PLAIN.fullmatch(pattern) is not None


def matched(
    rules: Sequence[Rule], names: Sequence[str], advice: str
) -> tuple[dict[str, str | None], ...]:
    """For each rule the names that it matches, with the text of its group `idx`.

    Args:
        rules: Expressions.
        names: Names to match.
        advice: Remedy in the message on an expression that is invalid or takes too long.

    Raises:
        InputError: An expression is invalid, or takes more than a few seconds or too much memory.
    """
    return _matched(tuple(rules), tuple(names), advice) if rules else ()


@functools.lru_cache(maxsize=8)
def _matched(
    rules: tuple[Rule, ...], names: tuple[str, ...], advice: str
) -> tuple[dict[str, str | None], ...]:
    request = json.dumps({"rules": [rule[:2] for rule in rules], "names": names})
    # As a script, and without the installed packages, for it starts sooner.
    worker = str(pathlib.Path(__file__).with_name("pattern_worker.py"))
    try:
        output = subprocess.run(
            [sys.executable, "-I", "-S", "-W", "ignore", worker],
            input=request.encode("ascii"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            # Ctrl-C in a terminal reaches the parent alone, which ends it.
            start_new_session=True,
            check=False,
        ).stdout
    except subprocess.TimeoutExpired as expired:
        output = expired.stdout or b""
    except OSError as error:
        raise InputError(
            f"{rules[0].what}: the process that matches regular expressions cannot be started "
            f"({error.strerror or error})"
        ) from None
    # A line that was written in part has no end.
    answers = [json.loads(line) for line in output.split(b"\n")[:-1]]
    if answers and "fault" in answers[-1]:
        what = rules[len(answers) - 1].what
        raise InputError(f"{what} is no regular expression ({answers[-1]['fault']}); {advice}")
    if len(answers) < len(rules):
        raise InputError(
            f"{rules[len(answers)].what} takes more than {_SECONDS:g} s or too much memory to "
            f"match with {len(names)} names, as a regular expression that backtracks; {advice}"
        )
    return tuple({names[index]: idx for index, idx in answer["matches"]} for answer in answers)
