"""Processes of a sweep as threads of one, where starting real ones shows nothing more."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def side_by_side(count: int, work: Callable[[int], Any], *, seconds: float) -> list[Any]:
    """Calls `work` with every index at once; returns what they returned or raised.

    Args:
      count: how many.
      work: takes the index.
      seconds: after which one that has not ended fails the test.
    """
    results: list[Any] = [None] * count

    def one(index: int) -> None:
        try:
            results[index] = work(index)
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive()
    return results
