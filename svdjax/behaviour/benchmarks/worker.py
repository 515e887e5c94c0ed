"""The process that compares answers with math-verify: JSON lines in, JSON lines out.

Answers come from models: some take forever, some take all memory. This process has a limit on its
memory and an alarm that ends it, and nothing of svdjax in it, so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from typing import Any, TextIO

MOST_MEMORY = 2 << 30


def main() -> None:
    """Answers requests until standard input ends."""
    # The parent ends this process when it is interrupted itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit_memory()
    # What libraries print must not come between the answers.
    with os.fdopen(os.dup(1), "w", encoding="ascii") as out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            import math_verify
        # Also what its dependencies run into.
        except Exception as error:
            _say(out, {"missing": f"{type(error).__name__}: {error}"})
            return
        _say(out, {"ready": True})
        while line := sys.stdin.readline():
            request = json.loads(line)
            # A parent that was killed cannot end this process in the middle of a calculation.
            # The alarm's default action does, even inside of C code.
            signal.setitimer(signal.ITIMER_REAL, request["seconds"])
            equal, reason = _compare(math_verify, request["gold"], request["answer"])
            signal.setitimer(signal.ITIMER_REAL, 0)
            _say(out, {"equal": equal, "reason": reason})


def _compare(library: Any, gold: str, answer: str) -> tuple[bool, str]:
    try:
        # Its own time limits would make "takes too long" look like "differs".
        # Only LaTeX: its reader of plain expressions ends in Python's eval.
        latex = [library.LatexExtractionConfig()]
        parsed = [
            library.parse(f"\\boxed{{{text}}}", latex, parsing_timeout=None)
            for text in (gold, answer)
        ]
        if not all(parsed):
            return False, "not comparable"
        return bool(library.verify(*parsed, timeout_seconds=None)), ""
    # Including MemoryError and RecursionError.
    except Exception:
        return False, "not comparable"


def _limit_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    most = MOST_MEMORY if hard == resource.RLIM_INFINITY else min(MOST_MEMORY, hard)
    # Not every system has this limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _say(out: TextIO, message: dict[str, Any]) -> None:
    try:
        out.write(json.dumps(message) + "\n")
        out.flush()
    except BrokenPipeError:
        # Nobody listens any more; leave without a last attempt to write.
        os._exit(0)


if __name__ == "__main__":
    main()
