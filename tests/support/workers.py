"""Workers as threads of this process: what a cluster does to a stage, without one."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from svdjax.engine.work.unit import Check, Piece, Unit, Work
from svdjax.engine.work.worker import OpenSession, _Feed

_SECONDS = 120.0


class ThreadWorkers:
    """Two sessions that are handed units in turns, the largest first; in place of `RayWorkers`.

    A session gets its next unit only when the last one is done, so that work which asks for one
    earlier fails here. Whatever is sent goes through pickle.
    """

    remote, count = True, 2

    def __init__(self, open_session: OpenSession, arguments: tuple[Any, ...], *_: Any, **__: Any):
        self.failed: dict[str, str] = {}
        self._sessions = [open_session(*_sent(arguments)) for _ in range(2)]

    def __enter__(self) -> ThreadWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        for session in self._sessions:
            session.close()

    def open(self, check: Check) -> list[str]:
        """The devices in words."""
        check("waiting for workers")
        return [device for session in self._sessions for device in session.about()["devices"]]

    def do(
        self, work: Work, units: Sequence[Unit], check: Check, shared: Any = None
    ) -> Iterator[Piece]:
        """Yields the pieces of units; see `svdjax.engine.work.unit.Workers`."""
        assert len({unit.key for unit in units}) == len(units)
        feeds = [
            _Feed(work.name, session.work(work.name, _sent(shared))) for session in self._sessions
        ]
        in_turns = itertools.cycle(feeds)
        for unit in sorted(units, key=lambda unit: -unit.cost):
            check(f"{work.name}: before {unit.label}")
            result = next(in_turns).put(_sent(unit))
            assert result is not None
            values = _sent(result.result(_SECONDS))
            for number, value in enumerate(values, 1):
                yield Piece(unit, value, number == len(values), 1 / len(values))
        for feed in feeds:
            feed.end()


def _sent(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))
