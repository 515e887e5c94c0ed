"""Compiling ahead: programs are made by one thread while others read and compute."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType


class CompileQueue:
    """Programs that will be needed, made in the order in which they were asked for.

    jax keeps what it compiles, so nothing is handed over: who is about to call a program waits for
    it, and then finds it made. `make` may fail: the call itself then fails in the same way, where
    that can be told in its place.
    """

    def __init__(self) -> None:
        self._maker: ThreadPoolExecutor | None = None
        self._made: dict[Hashable, Future[None]] = {}

    def request(self, key: Hashable, make: Callable[[], None]) -> None:
        """Has a program made, unless one of that key was asked for before."""
        if key in self._made:
            return
        if self._maker is None:
            self._maker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="svdjax-compile")
        self._made[key] = self._maker.submit(make)

    def wait(self, key: Hashable) -> None:
        """Returns when the program of that key is made, or at once if none was asked for."""
        if key in self._made:
            self._made[key].exception()

    def __enter__(self) -> CompileQueue:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._maker is not None:
            self._maker.shutdown(wait=False, cancel_futures=True)
