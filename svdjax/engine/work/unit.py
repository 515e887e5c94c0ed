"""The seam between stages and whoever computes: units, what computes them, and their results."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Check = Callable[[str], None]
"""Raises where a stop was requested; its argument says how far the work is."""


@dataclass(frozen=True)
class Unit:
    """A piece of a stage's work that any process can do, in any order; done twice, it is the same.

    Attributes:
        key: Names it; units of one key are one.
        label: Its name in messages.
        task: What is to be done, small and picklable; its meaning is the stage's.
        cost: Of units of one stage, the larger are handed out first.
        affinity: What units have in common that a process keeps between them, such as a model.
        program: What is compiled for it, and for all that have the same one.
    """

    key: str
    label: str
    task: Any
    cost: float = 1.0
    affinity: Hashable = None
    program: Hashable = None


class Piece(NamedTuple):
    """A part of a unit's result, as it is computed.

    Attributes:
        unit: The unit.
        value: Picklable; what the stage keeps in its journal.
        last: Whether the unit is done with it.
        share: Of the unit's cost.
    """

    unit: Unit
    value: Any
    last: bool = True
    share: float = 1.0


class Work(Protocol):
    """What computes the units of a stage, in whichever process.

    Attributes:
        name: Of the stage.
        reads_ahead: Whether the next unit is read while one computes.
    """

    name: str
    reads_ahead: bool

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Computes units in their order.

        Args:
            units: Asking for the next one may take as long as others work; it is asked for in a
                reading thread (`svdjax.engine.prefetch`), or once all pieces of the last one are
                taken.
            check: Called between units; may raise to stop.
        """
        ...


class Workers(Protocol):
    """Who computes.

    Attributes:
        remote: Whether they are other processes.
        failed: Units that no worker could do: their labels and the reasons, by key.
        count: How many there are at the moment.
    """

    remote: bool
    failed: dict[str, str]

    @property
    def count(self) -> int: ...  # noqa: D102

    def do(
        self, work: Work, units: Sequence[Unit], check: Check, shared: Any = None
    ) -> Iterator[Piece]:
        """Yields the pieces of units as they come, in any order of the units.

        Args:
            work: Computes them in this process.
            units: What is to be done.
            check: Called often; may raise to stop.
            shared: What the stage needs beside its units; sent once to every machine.

        Raises:
            InputError: The input cannot be used, as a worker found.
            WorkersLost: No worker is left, and none comes.
        """
        ...


def failures(failed: dict[str, str]) -> str:
    """Message on units that no worker could do."""
    shown = list(failed.values())[:3]
    more = f" | and {len(failed) - 3} more" if len(failed) > 3 else ""
    return " | ".join(shown) + more


class Here:
    """This process, over all its devices; it imports nothing that a sweep alone does not need."""

    remote, count = False, 1

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}

    def do(
        self, work: Work, units: Sequence[Unit], check: Check, shared: Any = None
    ) -> Iterator[Piece]:
        """Yields the pieces of units in their order; see `Workers.do`."""
        del shared
        return work.compute(units, check)
