"""Compilation ahead: one thread compiles programs while others read and compute."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor


class CompileQueue:
    """Queue of programs that will be needed, compiled in the order of their requests.

    jax caches what it compiles, so nothing is handed over: a caller waits for its program, and the
    call then finds it compiled. Where compiling fails, the call itself fails in the same way, and
    its error says where.
    """

    def __init__(self) -> None:
        self._compiler: ThreadPoolExecutor | None = None
        self._programs: dict[Hashable, Future[None]] = {}

    def request(self, key: Hashable, make: Callable[[], None]) -> None:
        """Queues the compilation of a program, unless one of that key was requested before.

        Args:
            key: Name of the program.
            make: Compiles the program; may fail.
        """
        if key in self._programs:
            return
        if self._compiler is None:
            self._compiler = ThreadPoolExecutor(max_workers=1, thread_name_prefix="svdjax-compile")
        self._programs[key] = self._compiler.submit(make)

    def wait(self, key: Hashable) -> None:
        """Returns when the program of that key is compiled, or at once if none was requested."""
        if key in self._programs:
            self._programs[key].exception()

    def __enter__(self) -> CompileQueue:
        return self

    def __exit__(self, *_: object) -> None:
        if self._compiler is not None:
            self._compiler.shutdown(wait=False, cancel_futures=True)
