"""The process that matches regular expressions of others: one JSON request in, JSON lines out.

Some take forever. This process has limits on its time and memory, and nothing of svdjax in it, so
that it starts quickly.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
from typing import Any

MOST_SECONDS = 5
MOST_MEMORY = 512 << 20


def main() -> None:
    """Answers a line per rule, {"found": [[number of the name, its group idx], ...]}.

    The first pattern that is none ends it, with {"fault": why}.
    """
    _limit(resource.RLIMIT_CPU, MOST_SECONDS)
    _limit(resource.RLIMIT_AS, MOST_MEMORY)
    request = json.load(sys.stdin)
    for pattern, how in request["rules"]:
        answer = _answer(pattern, how, request["names"])
        # One by one: the parent learns which one takes too long.
        print(json.dumps(answer), flush=True)
        if "fault" in answer:
            return


def _answer(pattern: str, how: str, names: list[str]) -> dict[str, Any]:
    try:
        match = getattr(re.compile(pattern), how)
        found = [(number, match(name)) for number, name in enumerate(names)]
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        return {"fault": str(error)[:200] or type(error).__name__}
    return {"found": [[number, hit.groupdict().get("idx")] for number, hit in found if hit]}


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    # Not every system has every limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (most, hard))


if __name__ == "__main__":
    main()
