"""Handler of a `worker.Worker` that compares answers with math-verify.

Answers come from models: some take forever, some take all memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def prepare() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Function from {"gold", "answer"} to {"equal", "reason"}."""
    import math_verify

    def compare(request: dict[str, Any]) -> dict[str, Any]:
        equal, reason = _compare(math_verify, request["gold"], request["answer"])
        return {"equal": equal, "reason": reason}

    return compare


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
