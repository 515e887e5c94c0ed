"""Reading ahead: one thread loads the next item while the present one is worked on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def prefetch(
    items: Iterable[Item],
    load: Callable[[Item], Loaded],
    check: Callable[[], None] = lambda: None,
) -> Generator[tuple[Item, Loaded], None, None]:
    """Yields each item with its loaded value; two of these exist at a time.

    Args:
        items: Items in the order of loading; the reading thread takes them, and may have to wait.
        load: Loads an item, in that thread; its errors are raised here.
        check: Called before each item; may raise to stop.
    """
    iterator = iter(items)
    asking = threading.Event()

    def load_next() -> tuple[Item, Loaded] | None:
        asking.set()
        for item in iterator:
            asking.clear()
            return item, load(item)
        return None

    reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="svdjax-read")
    ahead = reader.submit(load_next)
    try:
        while True:
            loaded = ahead.result()
            if loaded is None:
                return
            check()
            ahead = reader.submit(load_next)
            yield loaded
            del loaded
    finally:
        ahead.cancel()
        # Reading is waited for; the next item may never come.
        reader.shutdown(wait=not asking.is_set())
