"""Process that matches untrusted regular expressions: one JSON request in, JSON lines out.

Some expressions take forever, so the process limits its time and memory. It imports nothing of
svdjax, so that it starts quickly.
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
    """Writes a line per rule, {"matches": [[index of the name, its group idx], ...]}.

    The first invalid pattern ends it, with {"fault": reason}.
    """
    _limit(resource.RLIMIT_CPU, MOST_SECONDS)
    _limit(resource.RLIMIT_AS, MOST_MEMORY)
    request = json.load(sys.stdin)
    for pattern, method in request["rules"]:
        answer = _answer(pattern, method, request["names"])
        # One by one: the parent learns which one takes too long.
        print(json.dumps(answer), flush=True)
        if "fault" in answer:
            return


def _answer(pattern: str, method: str, names: list[str]) -> dict[str, Any]:
    try:
        match = getattr(re.compile(pattern), method)
        matches = [(index, match(name)) for index, name in enumerate(names)]
    except (re.error, RecursionError, OverflowError, MemoryError) as error:
        return {"fault": str(error)[:200] or type(error).__name__}
    return {"matches": [[index, m.groupdict().get("idx")] for index, m in matches if m]}


def _limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    # Not every system has every limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (most, hard))


if __name__ == "__main__":
    main()
