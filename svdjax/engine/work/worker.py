"""A worker: a process that is handed units one by one, and keeps what the next ones need.

It opens the inputs itself, reads its own matrices and computes on its own devices. Units go through
one `Work.compute`, so that the next is read while one computes, and what a stage keeps between
units (programs, factors, the last model) stays.
"""

from __future__ import annotations

import os
import pathlib
import queue
import socket
import tempfile
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

from svdjax.engine.process import open_jax, prepare_process, set_cpu_devices
from svdjax.engine.progress import note_to
from svdjax.engine.work.unit import Unit, Work
from svdjax.engine.writing import writing_to
from svdjax.errors import InputError

_DEVICE_ERRORS = ("JaxRuntimeError", "XlaRuntimeError")  # by name: jax is loaded late


class Session(Protocol):
    """What a run opens on a worker."""

    def about(self) -> Mapping[str, Any]:
        """What has to be the same on all workers, and ``devices``, a list of them in words."""
        ...

    def work(self, stage: str, shared: Any) -> Work:
        """What computes the units of a stage."""
        ...

    def close(self) -> None:
        """Removes what it has on disk."""
        ...


OpenSession = Callable[..., Session]
"""Opens a session, of arguments that are small and picklable."""


@dataclass(frozen=True)
class Answer:
    """What a worker has to say to a call.

    Attributes:
        where: Process and machine.
        value: The pieces of a unit, or what `Session.about` returned.
        notes: Lines for stderr.
        refusal: Why the input cannot be used.
        broken: Why this process can compute no more: its device is lost.
        fault: A traceback, of a fault of svdjax.
    """

    where: str
    value: Any = None
    notes: list[str] = field(default_factory=list)
    refusal: str = ""
    broken: str = ""
    fault: str = ""


class Worker:
    """A process of its own; its methods may be called from several threads."""

    def __init__(
        self,
        open_session: OpenSession,
        arguments: tuple[Any, ...],
        *,
        devices: int,
        directory: str,
        environment: Mapping[str, str],
    ):
        """Configures the process; jax is loaded by `about`.

        Args:
            open_session: Opens the session, in `about`.
            arguments: Of it.
            devices: How many devices of the process it uses.
            directory: Where the run was started, which relative paths start from.
            environment: Variables of the run's process that concern jax and its libraries.
        """
        os.environ.update(environment)
        set_cpu_devices(devices)
        if pathlib.Path(directory).is_dir():
            os.chdir(directory)
        self._open, self._arguments = open_session, arguments
        self._session: Session | None = None
        self._feed: _Feed | None = None
        self._lock = threading.Lock()
        self._notes: deque[str] = deque()

    def about(self) -> Answer:
        """Opens the session; returns what it says of itself."""

        def opened() -> dict[str, Any]:
            note_to(self._notes.append)
            prepare_process()
            open_jax()
            self._session = self._open(*self._arguments)
            return dict(self._session.about())

        return self._answer(opened)

    def do(self, stage: str, unit: Unit, shared: Any) -> Answer:
        """Computes a unit.

        Args:
            stage: Whose it is.
            unit: What is to be done.
            shared: The same for all units of the stage.
        """

        def done() -> Any:
            assert self._session is not None
            with self._lock:
                result = self._feed.put(unit) if self._feed and self._feed.stage == stage else None
                if result is None:
                    if self._feed is not None:
                        self._feed.end()
                    self._feed = _Feed(stage, self._session.work(stage, shared))
                    result = self._feed.put(unit)
            assert result is not None
            return result.result()

        return self._answer(done)

    def close(self) -> None:
        """Removes what the session has on disk."""
        if self._session is not None:
            self._session.close()

    def _answer(self, work: Callable[[], Any]) -> Answer:
        try:
            with writing_to(pathlib.Path(tempfile.gettempdir())):
                value, saying = work(), {}
        except InputError as error:
            value, saying = None, {"refusal": str(error)}
        except Exception as error:
            lost = isinstance(error, MemoryError) or type(error).__name__ in _DEVICE_ERRORS
            saying = {"broken": _reason(error)} if lost else {"fault": traceback.format_exc()}
            value = None
        notes = []
        while self._notes:
            notes.append(self._notes.popleft())
        where = f"worker {os.getpid()} on {socket.gethostname()}"
        return Answer(where, value, notes, **saying)


def _reason(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


class _Feed:
    """One `Work.compute` in a thread of its own, to which units are handed."""

    def __init__(self, stage: str, work: Work):
        self.stage = stage
        self._ended, self._lock = False, threading.Lock()
        self._units: queue.SimpleQueue[tuple[Unit, Future[Any]] | None] = queue.SimpleQueue()
        self._taken: deque[tuple[Unit, Future[Any]]] = deque()
        self._work = work
        self._thread = threading.Thread(target=self._run, name="svdjax-compute", daemon=True)
        self._thread.start()

    def put(self, unit: Unit) -> Future[Any] | None:
        """The pieces of a unit, once it is done; None after a unit has failed."""
        result: Future[Any] = Future()
        with self._lock:
            if self._ended:
                return None
            self._units.put((unit, result))
        return result

    def end(self) -> None:
        """Returns when all units that were handed in are done."""
        self._units.put(None)
        self._thread.join()

    def _taking(self) -> Iterator[Unit]:
        while (item := self._units.get()) is not None:
            with self._lock:
                if self._ended:  # and what was taken has been answered
                    item[1].set_exception(RuntimeError("a unit before this one has failed"))
                    return
                self._taken.append(item)
            yield item[0]

    def _run(self) -> None:
        values: list[Any] = []
        error: BaseException = RuntimeError("a unit was left without a result")
        try:
            for piece in self._work.compute(self._taking(), lambda done: None):
                values.append(piece.value)
                if piece.last:
                    _, result = self._taken.popleft()
                    result.set_result(values)
                    values = []
        except BaseException as raised:
            error = raised
        with self._lock:
            self._ended = True
            while not self._units.empty():
                if (item := self._units.get()) is not None:
                    self._taken.append(item)
            self._units.put(None)  # for the reading thread, which may wait for more
            for _, result in self._taken:
                result.set_exception(error)
