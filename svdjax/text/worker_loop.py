"""Loop of a `worker.Worker`'s process: loads a handler, answers JSON lines with JSON lines.

A script: `python -P worker_loop.py HANDLER.py BYTES`. It imports nothing of svdjax, so that it
starts quickly. The handler imports once and forks: the child answers, the parent replaces it
when it is lost and says so. Memory is limited as a whole, time for every request.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO

_REPLACE = 3  # exit status of a child that has replied and is not to be used any longer


def main() -> None:
    """Answers requests until standard input ends."""
    # The parent ends this process when it is interrupted itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _limit(resource.RLIMIT_AS, int(sys.argv[2]))
    _limit(resource.RLIMIT_CORE, 0)
    # What libraries print must not come between the answers.
    with os.fdopen(os.dup(1), "w", encoding="ascii") as out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            handle = runpy.run_path(sys.argv[1])["prepare"]()
        # Also what dependencies of libraries run into.
        except Exception as error:
            _send(out, {"missing": f"{type(error).__name__}: {error}"})
            return
        _send(out, {"ready": True})
        while child := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code == 0:
                return
            if code != _REPLACE:
                _send(out, {"lost": code})
        _serve(handle, out)


def _serve(handle: Callable[[dict[str, Any]], dict[str, Any]], out: TextIO) -> None:
    while line := sys.stdin.readline():
        request = json.loads(line)
        # The alarms' default action ends the process even inside of C code, and where whoever asks
        # was killed and cannot.
        signal.setitimer(signal.ITIMER_REAL, request["wall"])
        signal.setitimer(signal.ITIMER_PROF, request["computing"])
        try:
            _send(out, handle(request))
            fatal = False
        # pyo3's PanicException, for one, is no Exception.
        except BaseException as error:
            fatal = isinstance(error, MemoryError) or not isinstance(error, Exception)
            _send(out, _described(error) | {"fatal": fatal})
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        if fatal:
            # Whatever state it left.
            os._exit(_REPLACE)
    os._exit(0)


def _described(error: BaseException) -> dict[str, Any]:
    try:
        message = str(error)[:2000]
    except Exception:
        message = ""
    return {"error": message, "kinds": [kind.__name__ for kind in type(error).__mro__]}


def _limit(kind: int, most: int) -> None:
    # A lower limit that the caller has set stays.
    most = min([most, *(limit for limit in resource.getrlimit(kind) if limit >= 0)])
    # Not every system has every limit.
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (most, most))


def _send(out: TextIO, message: dict[str, Any]) -> None:
    line = json.dumps(message)
    try:
        out.write(line + "\n")
        out.flush()
    except BrokenPipeError:
        # Nobody listens any more; leave without a last attempt to write.
        os._exit(0)


if __name__ == "__main__":
    main()
