"""A process of its own for what may hang, crash or take all memory: JSON lines to it and back.

`isolated_loop.py` is what runs there, with limits on memory and time, and no core is dumped.
"""

from __future__ import annotations

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

_LOOP = pathlib.Path(__file__).with_name("isolated_loop.py")
# For imports on a busy machine; a request's own time begins afterwards.
_START_SECONDS = 120.0
# How much later than by its parent the process is ended by its own alarm.
_GRACE_SECONDS = 5.0
_MOST_REPLY = 256 << 20


class Lost(Exception):
    """The process ended, or was ended, before it replied; the message says how.

    Attributes:
        timed_out: Whether it ran out of time.
    """

    def __init__(self, why: str, timed_out: bool = False):
        super().__init__(why)
        self.timed_out = timed_out


class Unavailable(Exception):
    """The process does not start, or a library that it needs cannot be imported; says which."""


class Worker:
    """Starts its process when it is needed, and again when that was lost.

    Not for several threads at a time.

    Args:
        handler: A Python file whose `prepare()` returns the function from requests to replies. It
            runs without the package, and starts the sooner.
        memory: Bytes of address space that it may take.
    """

    def __init__(self, handler: pathlib.Path, memory: int):
        self._command = [sys.executable, "-P", str(_LOOP), str(handler), str(memory)]
        self._end: Any = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        """Whether there is a process that can answer."""
        return self.process is not None and self.process.poll() is None

    def ask(
        self, request: dict[str, Any], wall: float, computing: float | None = None
    ) -> dict[str, Any]:
        """The reply to a request; `{"error", "kinds"}` where the handler raised.

        Args:
            request: JSON.
            wall: Seconds until the process is ended.
            computing: Seconds of processor time until it is ended; no limit but `wall` by default.

        Raises:
            Lost: There is none; the process is gone.
            Unavailable: The process cannot be started.
        """
        process = self.running()
        limits = {"wall": wall + _GRACE_SECONDS, "computing": computing or 0.0}
        try:
            _write(process, (json.dumps(request | limits) + "\n").encode("ascii"))
            reply = _reply(process, wall)
        except TimeoutError:
            self.close()
            raise Lost(f"takes more than {wall:.3g} s", True) from None
        except (OSError, EOFError, ValueError) as error:
            code = _exit_code(process)
            self.close()
            if code == -signal.SIGPROF:
                raise Lost(f"takes more than {computing:.3g} s of computing", True) from None
            if isinstance(error, ValueError):
                raise Lost(str(error)) from None
            raise Lost(_how(code)) from None
        # A reply that arrives after an interruption must not answer the next request.
        except BaseException:
            self.close()
            raise
        if reply.get("fatal"):
            self.close()
        return reply

    def running(self) -> subprocess.Popen[bytes]:
        """The process, started where there is none; raises `Unavailable`."""
        if self.process is not None and self.alive:
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
            raise Unavailable(f"does not start ({type(error).__name__})") from None
        except BaseException:
            self.close()
            raise
        if "missing" in reply:
            self.close()
            raise Unavailable(f"cannot be imported ({reply['missing']})")
        return self.process

    def close(self) -> None:
        """Ends the process, if there is one."""
        self.process, end, self._end = None, self._end, None
        if end is not None:
            end()


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with process:
        pass


def _exit_code(process: subprocess.Popen[bytes]) -> int | None:
    try:
        # It has closed its output, so that it is about to be gone.
        return process.wait(1)
    except subprocess.TimeoutExpired:
        return None


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return "ends the process that reads it"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"ends the process that reads it ({name})"


def _write(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None
    left = memoryview(content)
    while left:
        # Less than all of it where a signal comes in between.
        left = left[os.write(process.stdin.fileno(), left) :]


def _reply(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    """The next line; TimeoutError if there is none in time, EOFError if there will be none."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    line = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise TimeoutError
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                raise EOFError
            line += part
            if len(line) > _MOST_REPLY:
                raise ValueError(f"gives more than {_MOST_REPLY >> 20} MiB")
    return json.loads(line)
