"""What a sweep knows of its other processes, and how all of them end when one does."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from svdjax.engine.hosts.channel import SILENCE, Link
from svdjax.engine.signals import StopRequest
from svdjax.errors import HostLost, InputError, Interrupted

GRACE = 10.0
"""Seconds that the group in flight has when another process has died; then the process ends."""

_BEAT = 2.0
_LOOK = 0.2


class Hosts:
    """The processes of a sweep as one of them sees them; alone, it is a mere stop request.

    While entered, a process hears of the others' stops, errors and deaths, and they of its own:
    `check` raises them. Everything goes by way of process 0. When process 0 leaves, it waits for
    the others, so that whoever finds the workdir unlocked has it alone.

    Attributes:
        index: Which process this is.
        count: How many there are.
    """

    def __init__(
        self,
        stop: StopRequest,
        index: int = 0,
        count: int = 1,
        links: Mapping[int, Link] | None = None,
        names: Mapping[int, str] | None = None,
    ):
        """Args:
        stop: the process's own.
        index: see above.
        count: likewise.
        links: connections by process: all others for process 0, process 0 for them.
        names: what to call these in messages.
        """
        self.index, self.count = index, count
        self._stop, self._links, self._names = stop, dict(links or {}), dict(names or {})
        self._changed = threading.Condition()
        self._signal: tuple[int, int] | None = None  # (process, signal) of a stop elsewhere
        self._failure: tuple[int, str] | None = None  # (exit status, line) of the first that failed
        self._reached: dict[str, dict[int, Any]] = {}
        self._values: dict[str, list[Any]] = {}
        self._gone: set[int] = set()
        self._ended = self._leaving = self._closed = False

    @property
    def first(self) -> bool:
        """Whether this process leads: holds the lock, writes the results."""
        return self.index == 0

    def __enter__(self) -> Hosts:
        for peer, link in self._links.items():
            threading.Thread(target=self._listen, args=(peer, link), daemon=True).start()
        if self._links:
            threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._links:
            return
        self._leaving = True
        self._tell_all(self._farewell(error))
        try:
            if self.first:
                self._see_off(error)
        finally:
            self._tell_all({"kind": "bye"})
            self._closed = True
            for link in self._links.values():
                link.close()

    def check(self, done: str = "") -> None:
        """Raises if this process is to stop; `done` says how far the work is.

        Raises:
            Interrupted: This process or another was asked to stop.
            InputError: Another cannot use what it was given.
            HostLost: Another has died.
        """
        self._stop.check(done)
        if self._signal is not None:
            process, signum = self._signal
            where = f" ({done})" if done else ""
            raise Interrupted(
                f"stopped by {_name(signum)} to process {process}{where}; the same command goes on "
                "from here",
                signum,
            )
        if self._failure is not None:
            status, line = self._failure
            raise InputError(line) if status == 2 else HostLost(line)

    def exchange(self, name: str, value: Any = None) -> list[Any]:
        """Waits until all processes have come to `name`; returns their values by process.

        Args:
            name: Of the point, once in a sweep.
            value: JSON-able.

        Raises:
            as `check`.
        """
        if not self._links:
            return [value]
        message = {"kind": "reach", "index": self.index, "name": name, "value": value}
        if self.first:
            self._take(0, message)
        else:
            self._tell_all(message)
        self._wait_for(lambda: name in self._values, name)
        return self._values[name]

    def end(self) -> None:
        """The work is done: process 0 lets the others go, and they wait for that."""
        if self.first:
            self._leaving = True
            self._tell_all({"kind": "end"})
        else:
            self._wait_for(lambda: self._ended, "the end")

    def _wait_for(self, there: Any, what: str) -> None:
        while True:
            with self._changed:
                if there():
                    return
                self._changed.wait(_LOOK)
                if there():
                    return
            self.check(f"while waiting for {what}")

    def _farewell(self, error: BaseException | None) -> dict[str, Any]:
        """What the others have to know about how this process ends."""
        if error is None or self._failure is not None:
            return {"kind": "beat"}
        if isinstance(error, Interrupted | KeyboardInterrupt):
            signum = error.status - 128 if isinstance(error, Interrupted) else signal.SIGINT
            return {"kind": "stop", "index": self.index, "signum": signum}
        if isinstance(error, InputError):
            return {"kind": "fail", "status": 2, "line": f"process {self.index}: {error}"}
        line = f"process {self.index} failed ({type(error).__name__}: {error})"
        return {"kind": "fail", "status": 3, "line": f"{line}; {_GO_ON}"}

    def _see_off(self, error: BaseException | None) -> None:
        """Waits until the others are gone; where something failed, not for long."""
        patient = error is None or isinstance(error, Interrupted | KeyboardInterrupt)
        deadline = time.monotonic() + (float("inf") if patient else GRACE)
        with self._changed:
            while len(self._gone) < len(self._links) and time.monotonic() < deadline:
                self._changed.wait(_LOOK)

    def _listen(self, peer: int, link: Link) -> None:
        """Hears one other process until it says goodbye, or is gone without."""
        try:
            while (message := link.receive(SILENCE)) is not None:
                if message["kind"] == "bye":
                    break
                self._take(peer, message)
            reason = None if message else "its connection was closed"
        except TimeoutError:
            reason = f"nothing heard of it for {SILENCE:.0f} s"
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
        finally:
            link.release()
        with self._changed:
            self._gone.add(peer)
            self._changed.notify_all()
        if not (self._leaving or self._signal or self._stop.signum) and (
            reason or not (self._ended or self.first)
        ):
            line = f"process {peer} of {self.count} ({self._names.get(peer, '?')}) died"
            self._take(
                peer,
                {"kind": "fail", "status": 3, "line": f"{line} ({reason or 'it ended'}); {_GO_ON}"},
            )

    def _take(self, peer: int, message: dict[str, Any]) -> None:
        kind = message["kind"]
        with self._changed:
            if kind == "reach":
                values = self._reached.setdefault(message["name"], {})
                values[int(message["index"])] = message["value"]
                if len(values) == self.count:
                    kind, message = (
                        "go",
                        {
                            "kind": "go",
                            "name": message["name"],
                            "values": [values[index] for index in range(self.count)],
                        },
                    )
                    self._tell_all(message)
            if kind == "go":
                self._values[message["name"]] = message["values"]
            elif kind == "end":
                self._ended = True
            elif kind == "stop" and self._signal is None:
                self._signal = int(message["index"]), int(message["signum"])
                self._relay(peer, message)
            elif kind == "fail" and self._failure is None:
                self._failure = int(message["status"]), str(message["line"])
                self._relay(peer, message)
                if self._failure[0] == 3:
                    threading.Thread(target=self._leave_anyhow, daemon=True).start()
            self._changed.notify_all()

    def _relay(self, peer: int, message: dict[str, Any]) -> None:
        if self.first:
            for other, link in self._links.items():
                if other != peer:
                    link.send(message)

    def _tell_all(self, message: dict[str, Any]) -> None:
        for link in self._links.values():
            link.send(message)

    def _beat(self) -> None:
        """Lets the others know that this process lives, and at once when it was told to stop."""
        said, last = False, 0.0
        while not self._closed:
            if not said and self._stop.signum is not None:
                said = True
                self._tell_all({"kind": "stop", "index": self.index, "signum": self._stop.signum})
            if time.monotonic() - last >= _BEAT:
                last = time.monotonic()
                self._tell_all({"kind": "beat"})
            time.sleep(_LOOK)

    def _leave_anyhow(self) -> None:
        """Ends the process where the group in flight takes too long: the run has failed.

        What is on disk is whole at any moment, and the kernel drops the lock.
        """
        time.sleep(GRACE)
        if not self._closed and self._failure is not None:
            print(f"svdjax: {self._failure[1]}", file=sys.stderr, flush=True)
            os._exit(self._failure[0])


_GO_ON = "the same command goes on from here"


def _name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
