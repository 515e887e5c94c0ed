"""Worker process for code that may hang, crash or take all memory: JSON lines to it and back.

`worker_loop.py` runs there, with limits on memory and time, and no core is dumped.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import selectors
import signal
import subprocess
import sys
import time
import weakref
from typing import Any

_LOOP = pathlib.Path(__file__).with_name("worker_loop.py")
# For imports on a busy machine; a request's own time begins afterwards.
_START_SECONDS = 120.0
# How much later than by its own alarm the process is ended from here.
_GRACE_SECONDS = 5.0
_MOST_REPLY = 256 << 20
_SIGNALS = frozenset(int(number) for number in signal.Signals)


class WorkerLost(Exception):
    """The process ended, or was ended, before it replied; the message says how.

    Attributes:
        timed_out: Whether it ran out of time.
        by_itself: Whether the request ended it; else somebody killed it.
    """

    def __init__(self, why: str, *, timed_out: bool = False, by_itself: bool = True):
        super().__init__(why)
        self.timed_out, self.by_itself = timed_out, by_itself


class WorkerUnavailable(Exception):
    """The process does not start, or a library that it needs cannot be imported."""


class Worker:
    """A process that is started when it is needed, and again when it was lost.

    Not for several threads at a time.

    Args:
        handler: A Python file whose `prepare()` returns the function from requests to replies. It
            runs without the package, and starts the sooner.
        memory: Bytes of address space that it may take.

    Attributes:
        losses: How often what the handler had in memory was lost.
    """

    def __init__(self, handler: pathlib.Path, memory: int):
        self._command = [sys.executable, "-P", str(_LOOP), str(handler), str(memory)]
        self._end: Any = None
        self.losses = 0
        self.process: subprocess.Popen[bytes] | None = None

    def ask(
        self, request: dict[str, Any], wall: float, computing: float | None = None
    ) -> dict[str, Any]:
        """Reply to a request; `{"error", "kinds", "fatal"}` where the handler raised.

        Args:
            request: JSON.
            wall: Seconds until the process is ended.
            computing: Seconds of processor time until it is ended; no limit but `wall` by default.

        Raises:
            WorkerLost: There is no reply; the process is gone.
            WorkerUnavailable: The process cannot be started.
        """
        process = self.running()
        limits = {"wall": wall, "computing": computing or 0.0}
        try:
            _write(process, (json.dumps(request | limits) + "\n").encode("ascii"))
            reply = _reply(process, wall + _GRACE_SECONDS)
        except TimeoutError:
            self.close()
            raise WorkerLost(f"takes more than {wall:.3g} s", timed_out=True) from None
        except ValueError as error:
            self.close()
            raise WorkerLost(str(error)) from None
        except (OSError, EOFError):
            self.close()
            raise WorkerLost("has lost the process that reads it", by_itself=False) from None
        # A reply that arrives after an interruption must not answer the next request.
        except BaseException:
            self.close()
            raise
        if "lost" in reply or reply.get("fatal"):
            self.losses += 1
        if "lost" in reply:
            raise _lost(reply["lost"], wall, computing)
        return reply

    def running(self) -> subprocess.Popen[bytes]:
        """The process, started where there is none; raises `WorkerUnavailable`."""
        if self.process is not None and self.process.poll() is None:
            return self.process
        self.close()
        try:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                # A session of its own, so that Ctrl-C in a terminal reaches the parent alone.
                start_new_session=True,
            )
            # Also where nobody closes it, and when Python ends.
            self._end = weakref.finalize(self, _kill, self.process)
            reply = _reply(self.process, _START_SECONDS)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            raise WorkerUnavailable(f"does not start ({type(error).__name__})") from None
        except BaseException:
            self.close()
            raise
        if "missing" in reply:
            self.close()
            raise WorkerUnavailable(f"cannot be imported ({reply['missing']})")
        return self.process

    def close(self) -> None:
        """Ends the process, if there is one."""
        self.process, end, self._end = None, self._end, None
        if end is not None:
            self.losses += 1
            end()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    # Should its child be left, it reads the end of its input and goes.
    with process:
        pass


def _lost(code: int, wall: float, computing: float | None) -> WorkerLost:
    if code == -signal.SIGPROF:
        return WorkerLost(f"takes more than {computing:.3g} s of computing", timed_out=True)
    if code == -signal.SIGALRM:
        return WorkerLost(f"takes more than {wall:.3g} s", timed_out=True)
    status = signal.Signals(-code).name if -code in _SIGNALS else f"status {code}"
    by_itself = code not in (-signal.SIGKILL, -signal.SIGTERM)
    return WorkerLost(f"ends the process that reads it ({status})", by_itself=by_itself)


def _write(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None
    unwritten = memoryview(content)
    while unwritten:
        # Less than all of it where a signal comes in between.
        unwritten = unwritten[os.write(process.stdin.fileno(), unwritten) :]


def _reply(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    """Next line of the process; TimeoutError if there is none in time, EOFError at its end."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    line = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not selector.select(remaining):
                raise TimeoutError
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                raise EOFError
            line += chunk
            if len(line) > _MOST_REPLY:
                raise ValueError(f"gives more than {_MOST_REPLY >> 20} MiB")
    return json.loads(line)
