"""Comparing two answers as mathematics in a process of its own, which may hang, or die."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import selectors
import subprocess
import sys
import time
from typing import Any

from svdjax.errors import InputError

# For imports on a busy machine; a comparison's own time begins afterwards.
_START_SECONDS = 120.0
# How much later than by its parent the worker is ended by its own alarm.
_GRACE_SECONDS = 5.0
_INSTALL = "answers are compared by math-verify, which {why}; pip install math-verify"


class Comparer:
    """Starts the worker when it is needed, and again when it had to be ended.

    Not for several threads at a time.
    """

    def __init__(self, timeout: float):
        """`timeout` is how many seconds a comparison may take.

        Raises:
            InputError: math-verify is not installed.
        """
        if importlib.util.find_spec("math_verify") is None:
            raise InputError(_INSTALL.format(why="is not installed"))
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None

    def compare(self, gold: str, answer: str) -> tuple[bool, str]:
        """Whether two answers are the same, and if that cannot be said, why: else "".

        Raises:
            InputError: math-verify cannot be imported.
        """
        process = self._running()
        request = {"gold": gold, "answer": answer, "seconds": self._timeout + _GRACE_SECONDS}
        try:
            # Smaller than a pipe's buffer and read at once: writing does not block.
            _input(process).write((json.dumps(request) + "\n").encode("ascii"))
            reply = _reply(process, self._timeout)
        except TimeoutError:
            self.close()
            return False, "timeout"
        except (OSError, EOFError, ValueError):
            self.close()
            return False, "not comparable"
        # A reply that arrives after an interruption must not answer the next request.
        except BaseException:
            self.close()
            raise
        return reply["equal"], reply["reason"]

    def close(self) -> None:
        """Ends the worker, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:
                pass

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is not None:
            return self._process
        try:
            self._process = _start()
            reply = _reply(self._process, _START_SECONDS)
        except (OSError, EOFError, ValueError) as error:
            self.close()
            why = f"does not start ({type(error).__name__})"
            raise InputError(_INSTALL.format(why=why)) from None
        except BaseException:
            self.close()
            raise
        if "missing" in reply:
            self.close()
            why = f"cannot be imported ({reply['missing']})"
            raise InputError(_INSTALL.format(why=why))
        return self._process


def _start() -> subprocess.Popen[bytes]:
    # As a script: it needs nothing of the package, and starts the sooner without it.
    # A session of its own, so that Ctrl-C in a terminal reaches the parent alone.
    return subprocess.Popen(
        [sys.executable, "-P", str(pathlib.Path(__file__).with_name("worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        start_new_session=True,
    )


def _input(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdin is not None
    return process.stdin


def _reply(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    """The next line; TimeoutError if there is none in time, EOFError if there will be none."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    line = b""
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
    return json.loads(line)
