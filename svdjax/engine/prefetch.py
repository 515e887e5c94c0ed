"""Reading ahead: the next item is loaded by one thread while the present one is worked on."""

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
    """Yields each item with what `load` makes of it; two of these exist at a time.

    Args:
      items: in this order.
      load: called in the reading thread; what it raises is raised here.
      check: called before each item; may raise to stop.
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
