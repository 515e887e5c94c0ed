"""The commands within this process: their own flags, `main` and exit status, but no second jax.

Starting a process, loading jax and compiling again takes seconds, and shows something new only
about signals, devices and the process itself; the rest of a command is the same here.
"""

from __future__ import annotations

import contextlib
import io
import pathlib
import runpy
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

from absl import app, flags
from absl.testing import flagsaver

import svdjax
from svdjax.__main__ import COMMANDS
from svdjax.engine import process, progress
from svdjax.engine.signals import StopRequest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """A finished command."""

    status: int
    out: str
    err: str

    @property
    def computed(self) -> int:
        """Groups computed, counted in the log."""
        return sum(line.startswith("computed ") for line in self.err.splitlines())


def call(command: str, *arguments: str, stop: Callable[[str], object] | None = None) -> Done:
    """Runs `svdjax COMMAND` with `arguments` in this process, as its `__main__`.

    Only how a process is set up is left out (`prepare_process`, absl's log handler): this one is.

    Args:
      command: its name.
      arguments: flags, as on the command line.
      stop: is asked wherever the work can be stopped, with the words of `StopRequest.check`. Once
        it says yes, SIGTERM comes; what it raises is a death that leaves the files as they are.
    """
    out, err = io.StringIO(), io.StringIO()
    place = ROOT.joinpath(*COMMANDS[command].split("."))
    file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        # Flags that the command defines are gone afterwards, and so are modules that define some.
        enter(flagsaver.flagsaver())
        stack.callback(_forget_flags)
        stack.callback(progress.set_mode, "auto")
        enter(mock.patch.object(sys, "argv", [str(file), *arguments]))
        enter(mock.patch.object(process, "prepare_process"))
        enter(mock.patch.object(app, "run", _run))
        if stop is not None:
            enter(mock.patch.object(StopRequest, "check", _check(stop)))
        enter(contextlib.chdir(ROOT))
        enter(contextlib.redirect_stdout(out))
        enter(contextlib.redirect_stderr(err))
        try:
            runpy.run_path(str(file), run_name="__main__")
        except SystemExit as end:
            status = end.code
        else:
            raise AssertionError(f"{command} did not end with a status")
    assert isinstance(status, int)
    return Done(status, out.getvalue(), err.getvalue())


def _forget_flags() -> None:
    """Has modules of svdjax that define flags for a command define them for the next one too."""
    for name in flags.FLAGS.flags_by_module_dict():
        package, _, module = name.rpartition(".")
        if package == "svdjax" and sys.modules.pop(name, None):
            delattr(svdjax, module)


def _run(main: Callable[[Any], Any], flags_parser: Callable[[Any], Any]) -> None:
    """`absl.app.run`, which would take over this process's log and end it."""
    main(flags_parser(sys.argv))


def _check(stop: Callable[[str], object]) -> Callable[..., None]:
    """`StopRequest.check` that sends the signal where `stop` says so."""
    check = StopRequest.check

    def checked(self: StopRequest, done: str = "") -> None:
        if self.signum is None and stop(done):
            signal.raise_signal(signal.SIGTERM)
        check(self, done)

    return checked
