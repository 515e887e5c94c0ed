"""Stops on request: a signal is noted, the group in flight is finished, then the work ends."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from svdjax.errors import Interrupted

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Context that notes SIGTERM and SIGINT; `check` raises where it is safe to stop.

    A second signal raises at once. Everything on disk is atomic, so even that loses no more than
    the group in flight. Imports nothing heavy, so that a command can enter it before jax is loaded.
    Outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self, *, resumes: bool = True) -> None:
        """Prepares the message, which says whether the same command `resumes` or starts over."""
        self.after = "goes on from here" if resumes else "starts over"
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._previous = {signum: signal.signal(signum, self._note) for signum in _SIGNALS}
        return self

    def take_signals(self) -> None:
        """Takes the signals again, after a library has taken them for itself."""
        for signum in self._previous:
            signal.signal(signum, self._note)

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]

    def check(self, done: str = "") -> None:
        """Raises `Interrupted` if a signal came; `done` is the progress in its message."""
        if self.signum is not None:
            raise Interrupted(self._message(done), self.signum)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None:
            raise Interrupted(self._message("at once"), signum)
        self.signum = signum

    def _message(self, done: str) -> str:
        name = signal.Signals(self.signum or signal.SIGTERM).name
        where = f" ({done})" if done else ""
        return f"stopped by {name}{where}; the same command {self.after}"
