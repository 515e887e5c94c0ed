"""Reading ahead: one thread loads the next item while the present one is worked on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Loaded = TypeVar("Loaded")


def prefetch(
    items: Sequence[Item],
    load: Callable[[Item], Loaded],
    check: Callable[[], None] = lambda: None,
) -> Generator[tuple[Item, Loaded], None, None]:
    """Yields each item with its loaded value; two of these exist at a time.

    Args:
        items: Items in the order of loading.
        load: Loads an item, in the reading thread; its errors are raised here.
        check: Called before each item; may raise to stop.
    """
    if not items:
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="svdjax-read") as reader:
        ahead = reader.submit(load, items[0])
        try:
            for index, item in enumerate(items):
                check()
                loaded = ahead.result()
                if index + 1 < len(items):
                    ahead = reader.submit(load, items[index + 1])
                yield item, loaded
                del loaded
        finally:
            ahead.cancel()
