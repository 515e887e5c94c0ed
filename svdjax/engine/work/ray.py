"""Workers on a Ray cluster (`svdjax.engine.work.cluster`).

Ray starts processes where there is room, carries calls and results, and tells of the dead. What is
decided here: a worker gets units only after it has answered once (that of a machine which is gone
never does); its units are done by others when it dies; workers that are idle at the end take a copy
of the unit longest in flight, since a machine that fell silent is declared dead only after a
minute; a unit that three workers died of is given up. Workers are never restarted by Ray: new ones
are made where there is room, so that machines may come and go.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import time
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from svdjax.engine.progress import note
from svdjax.engine.signals import StopRequest
from svdjax.engine.work.cluster import cluster, describe_error
from svdjax.engine.work.unit import Check, Piece, Unit, Work
from svdjax.engine.work.worker import Answer, OpenSession, Worker
from svdjax.errors import InputError, WorkersLost, printable

PATIENCE = 300.0
"""Seconds without any worker after which a run ends."""

_DEATHS = 3
"""Workers that may die of a unit."""

_COPY_SECONDS = 5.0
"""In flight, after which an idle worker takes a copy of a unit."""

_OTHERS_SECONDS = 20.0
"""After the first worker has come, in which the others of the start are waited for."""

_CLOSE_SECONDS = 3.0
"""In which workers have to be done with removing their files."""

_LOOK_SECONDS = 2.0
"""Between two looks at what the cluster has."""

_WAIT_SECONDS = 0.2
"""Between two looks for a stop request."""

_CARRIED = ("JAX_", "XLA_", "SVDJAX_", "HF_", "OPENBLAS_", "MKL_", "OMP_")
"""Variables of the environment that workers are given."""

_NOT_CARRIED = ("JAX_NUM_CPU_DEVICES", "JAX_COMPILATION_CACHE_DIR", "HF_TOKEN")
"""Of those: what a worker decides for itself, and a secret."""


@dataclass(eq=False)
class _Member:
    """A worker as it is seen from here.

    Attributes:
        actor: Its handle.
        where: Machine and process, once it has answered.
        calls: Its calls that have not been answered; the unit of each, None for the first one.
        affinity: Of the last unit that it was given.
        state: ``asked`` until it has answered, then ``ready`` or ``refused``.
        devices: Its devices in words.
    """

    actor: Any
    where: str = "a worker"
    calls: dict[Any, Unit | None] = field(default_factory=dict)
    affinity: Hashable = None
    state: str = "asked"
    devices: list[str] = field(default_factory=list)

    @property
    def units(self) -> list[Unit]:
        """The units that it was given."""
        return [unit for unit in self.calls.values() if unit is not None]


class RayWorkers:
    """Processes of a Ray cluster; `svdjax.engine.work.unit.Workers`, and a context that ends them.

    Attributes:
        failed: Units that no worker could do: their labels and the reasons, by key.
    """

    remote = True

    def __init__(
        self,
        open_session: OpenSession,
        arguments: tuple[Any, ...],
        expected: Mapping[str, Any],
        *,
        devices: int,
        stop: StopRequest,
        patience: float = PATIENCE,
    ):
        """Joins the cluster that ``RAY_ADDRESS`` names, or starts one on this machine.

        Args:
            open_session: Opens a worker's session.
            arguments: Of it, small: they go to every worker.
            expected: What `Session.about` has to say; what it says beyond that has to be the same
                on all workers.
            devices: Devices of a worker.
            stop: Entered; Ray replaces its signal handlers, which are given back.
            patience: Seconds without any worker after which a run ends.

        Raises:
            InputError: Ray is not installed, or the cluster cannot be joined.
        """
        self.failed: dict[str, str] = {}
        self._after = stop.after
        self._expected, self._patience, self._devices = dict(expected), patience, devices
        environment = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_CARRIED) and name not in _NOT_CARRIED
        }
        self._given = (
            (open_session, arguments),
            {
                "devices": devices,
                "directory": str(pathlib.Path.cwd()),
                "environment": environment,
            },
        )
        with contextlib.ExitStack() as stack:
            # Ray prints there what it has to say of machines; stdout is for the run's summary.
            nowhere = stack.enter_context(pathlib.Path(os.devnull).open("w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            self._ray = stack.enter_context(cluster(stop))
            self._stack = stack.pop_all()
        self._members: list[_Member] = []
        self._heard = self._look_at = time.monotonic()
        self._began = self._waits = False
        self._stillborn = 0
        self._deaths: collections.Counter[str] = collections.Counter()

    @property
    def count(self) -> int:
        """How many are ready."""
        return sum(member.state == "ready" for member in self._members)

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            closing = [member.actor.close.remote() for member in self._members]
            if closing:
                self._ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
            for member in self._members:
                self._ray.kill(member.actor)

    def open(self, check: Check) -> list[str]:
        """Waits for the first workers; returns the devices of all that have come, in words.

        Raises:
            InputError: One of them cannot take part.
            WorkersLost: None comes.
        """
        self._heard, ready = time.monotonic(), None
        while True:
            check("waiting for workers")
            self._grow()
            for _ in self._answers():
                pass
            states = [member.state for member in self._members]
            if "ready" in states:
                ready = ready or time.monotonic()
                if "asked" not in states or time.monotonic() - ready > _OTHERS_SECONDS:
                    break
        return [
            f"{member.where}: {device}"
            for member in self._members
            if member.state == "ready"
            for device in member.devices
        ]

    def do(
        self, work: Work, units: Sequence[Unit], check: Check, shared: Any = None
    ) -> Iterator[Piece]:
        """Yields the pieces of units, those of one unit together; see `Workers.do`."""
        if not units:
            return
        open_units = {unit.key: unit for unit in sorted(units, key=lambda unit: -unit.cost)}
        assert len(open_units) == len(units), "units of one key are one"
        waiting, given = dict(open_units), dict[str, float]()
        reference = self._ray.put(shared)
        self._heard = time.monotonic()
        while open_units:
            check(f"{work.name}: {len(units) - len(open_units)} of {len(units)} units done")
            self._grow()
            for member in self._members:
                while (unit := self._next(member, waiting, open_units, given, work)) is not None:
                    waiting.pop(unit.key, None)
                    call = member.actor.do.remote(work.name, unit, reference)
                    member.calls[call], member.affinity = unit, unit.affinity
                    given.setdefault(unit.key, time.monotonic())
                    self._began = True
            for member, unit, answer in self._answers():
                if unit is None or unit.key not in open_units:
                    continue  # what no longer matters: a copy that came later, or another stage's
                if answer is None and not self._gives_up(unit, member):
                    if not any(unit.key == u.key for one in self._members for u in one.units):
                        waiting = {unit.key: unit, **waiting}
                        given.pop(unit.key, None)
                    continue
                del open_units[unit.key]
                waiting.pop(unit.key, None)
                for number, value in enumerate(values := answer.value if answer else [], 1):
                    yield Piece(unit, value, number == len(values), 1 / len(values))

    def _next(
        self,
        member: _Member,
        waiting: Mapping[str, Unit],
        open_units: Mapping[str, Unit],
        given: Mapping[str, float],
        work: Work,
    ) -> Unit | None:
        """The unit that a worker is to have now: of those that wait, or else a copy."""
        deaths = self._deaths
        if member.state != "ready" or len(member.units) > work.reads_ahead:
            return None
        if any(deaths[unit.key] for unit in member.units):
            return None
        fit = [u for u in waiting.values() if not (member.units and deaths[u.key])]
        if fit:
            taken = {other.affinity for other in self._members if other is not member}
            return next(
                (unit for unit in fit if unit.affinity == member.affinity),
                next((unit for unit in fit if unit.affinity not in taken), fit[0]),
            )
        if member.units:
            return None
        now = time.monotonic()
        late = [key for key in open_units if now - given.get(key, now) > _COPY_SECONDS]
        copies = collections.Counter(unit.key for other in self._members for unit in other.units)
        late = [key for key in late if copies[key] < 2]
        return open_units[min(late, key=given.__getitem__)] if late else None

    def _grow(self) -> None:
        """Makes workers where the cluster has room, and ends the run where there are none."""
        now = time.monotonic()
        if any(member.state == "ready" for member in self._members):
            self._heard = now
        elif now - self._heard > self._patience:
            raise WorkersLost(
                f"no worker for {self._patience:.0f} s; the same command {self._after}"
            )
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_SECONDS
        kind, room = self._room()
        for _ in range(room - len(self._members)):
            needs = {"num_gpus": self._devices, "num_cpus": 0}
            needs = needs if kind == "GPU" else {"num_cpus": self._devices}
            actor = self._ray.remote(Worker).options(
                **needs, max_restarts=0, max_task_retries=0, max_concurrency=4
            )
            arguments, named = self._given
            member = _Member(actor.remote(*arguments, **named))
            member.calls[member.actor.about.remote()] = None
            self._members.append(member)

    def _room(self) -> tuple[str, int]:
        """The kind of device that workers have, and how many workers the cluster has room for.

        Raises:
            InputError: None, and the cluster is of this machine alone.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        kind = "GPU" if any(node.get("GPU") for node in nodes) else "CPU"
        most = [int(node.get(kind, 0)) for node in nodes]
        room = sum(count // self._devices for count in most)
        if not room and not self._waits:
            have = f"no node of the cluster has more than {max(most, default=0)} {kind} device(s)"
            text = f"config.devices={self._devices}: {have}, which a worker is to have"
            if not os.environ.get("RAY_ADDRESS"):
                raise InputError(f"{text}; use fewer")
            note(f"{text}; waiting for nodes that do")
            self._waits = True
        return kind, room

    def _answers(self) -> Iterator[tuple[_Member, Unit | None, Answer | None]]:
        """Yields what calls have led to; no answer where a worker has died.

        Raises:
            InputError: A worker has found that the input cannot be used.
        """
        calls = [call for member in self._members for call in member.calls]
        if not calls:
            time.sleep(_WAIT_SECONDS)
            return
        answered, _ = self._ray.wait(calls, num_returns=1, timeout=_WAIT_SECONDS)
        more, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        for call in dict.fromkeys([*answered, *more]):
            member = next((one for one in self._members if call in one.calls), None)
            if member is None:
                continue  # of a worker that has just been found dead
            try:
                answer = self._ray.get(call)
            except self._ray.exceptions.RayError as error:
                # Units are not to blame for a machine that is gone, or cannot be reached.
                gone = isinstance(error, self._ray.exceptions.ActorUnavailableError)
                gone = gone or "node has died" in str(error)
                yield from self._lost(member, describe_error(error), machine=gone)
                continue
            unit = member.calls.pop(call)
            member.where = answer.where
            for line in answer.notes:
                note(line)
            if answer.fault:
                raise RuntimeError(f"{member.where}:\n{answer.fault}")
            if unit is None:
                self._judge(member, answer)
            elif answer.refusal:
                raise InputError(answer.refusal)
            elif answer.broken:
                member.calls[call] = unit
                self._ray.kill(member.actor)
                yield from self._lost(member, answer.broken)
            else:
                yield member, unit, answer

    def _lost(
        self, member: _Member, reason: str, *, machine: bool = False
    ) -> Iterator[tuple[_Member, Unit | None, Answer | None]]:
        """A worker has died; so yields its units without answers."""
        self._members.remove(member)
        units = member.units
        if member.state == "asked":
            # Others would fare the same: with every one that dies young, more time is given.
            self._stillborn += 1
            self._look_at = time.monotonic() + _LOOK_SECONDS * 2 ** min(self._stillborn, 5)
            if self._stillborn >= _DEATHS and not self._began:
                raise WorkersLost(f"workers die as they start ({printable(reason, 500)})")
        labels = " and ".join(unit.label for unit in units)
        what = f"; others do {labels}" if units else ""
        note(f"{member.where} is lost ({printable(reason, 300)}){what}")
        member.calls.clear()
        member.where = reason
        # Any of them may be to blame: from now on each is done alone (`_next`).
        self._deaths.update(unit.key for unit in units if not machine)
        for unit in units:
            yield member, unit, None

    def _gives_up(self, unit: Unit, member: _Member) -> bool:
        """Whether too many workers died of a unit."""
        if self._deaths[unit.key] < _DEATHS:
            return False
        reason = f"{_DEATHS} workers died of it, the last one: {printable(member.where, 300)}"
        self.failed[unit.key] = f"{unit.label}: {reason}"
        note(f"{unit.label} is left out: {reason}")
        return True

    def _judge(self, member: _Member, answer: Answer) -> None:
        """Makes a worker that has answered ready, unless it is not like the others.

        Raises:
            InputError: It cannot take part, and nothing has begun.
        """
        why, about = answer.refusal or answer.broken, {}
        if not why:
            about = dict(answer.value)
            member.devices = about.pop("devices", [])
            wrong = [
                f"{key} {_short(about.get(key))} there, {_short(value)} here"
                for key, value in self._expected.items()
                if about.get(key) != value
            ]
            why = "; ".join(wrong)
        if not why:
            self._expected |= about
            member.state, self._stillborn = "ready", 0
            return
        member.state = "refused"
        text = f"{member.where}: {why}"
        if not self._began:
            raise InputError(text)
        note(f"{text}; it is not used")


def _short(value: Any) -> str:
    return printable(str(value), 200)
