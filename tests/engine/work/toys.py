"""Units that do what workers have to survive; loaded by the workers, so it imports no jax."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

from svdjax.engine.prefetch import prefetch
from svdjax.engine.progress import note
from svdjax.engine.work.unit import Check, Piece, Unit
from svdjax.errors import InputError


class Toys:
    """A stage of toys. The first word of a task says what is done, the others are its arguments."""

    name, reads_ahead = "toys", True

    def __init__(self, shared: Any = None):
        self.shared = shared

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        for unit, (what, *rest) in prefetch(units, lambda unit: unit.task.split()):
            check("")
            if what == "twice":
                yield Piece(unit, 1, last=False)
            elif what == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif what == "break":
                raise MemoryError("no room on the device")
            elif what == "refuse":
                raise InputError("the file is not what it was")
            elif what == "fault":
                raise ZeroDivisionError("a fault of ours")
            elif what == "note":
                note("a remark")
            elif what in ("die_once", "hang_once"):
                flag = pathlib.Path(rest[0])
                first = not flag.exists()
                flag.touch()
                if first and what == "die_once":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep(100 if first else 0)
            elif what == "sleep":
                time.sleep(float(rest[0]))
            yield Piece(unit, (unit.task, self.shared, os.getpid()))


class Session:
    """What a worker opens for toys."""

    def __init__(self, version: str = "1", flag: str = ""):
        if flag == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if flag and pathlib.Path(flag).exists():
            version = "another"
        elif flag:
            pathlib.Path(flag).touch()
        self._version = version

    def about(self) -> dict[str, Any]:
        return {"versions": {"toys": self._version}, "devices": ["toy"]}

    def work(self, stage: str, shared: Any) -> Toys:
        assert stage == Toys.name
        return Toys(shared)

    def close(self) -> None:
        pass


def units(*tasks: str) -> list[Unit]:
    """A unit for each task."""
    return [Unit(f"{number}", task, task) for number, task in enumerate(tasks)]
