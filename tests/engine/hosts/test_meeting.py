"""Processes meet, exchange and end together; here they are threads of one process."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from typing import Any

import pytest

from svdjax.engine.hosts import hosts
from svdjax.engine.hosts.meeting import meet
from svdjax.engine.hosts.request import HostsRequest
from svdjax.engine.signals import StopRequest
from svdjax.errors import HostLost, InputError, Interrupted
from tests.engine.hosts.threads import side_by_side

COUNT = 3


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        return door.getsockname()[1]


def run(port: int, work, count: int = COUNT, **changed: Any) -> list[Any]:
    """Calls `work(hosts, stop)` as every process; returns what they returned or raised."""

    def one(index: int) -> Any:
        stop = StopRequest()
        how: Any = {"host": "localhost", "count": count, "index": index, "patience": 20.0}
        how |= changed.get(f"p{index}", {})
        about = how.pop("about", {"config": {"corner": 25}})
        with meet(HostsRequest(port=port, **how), about, stop) as party:
            return work(party, stop)

    return side_by_side(count, one, seconds=30)


def waits(party, stop) -> None:
    """Works until something ends it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        party.check("working")
        time.sleep(0.01)


def test_values_are_exchanged_in_order(port):
    def work(party, stop):
        first = party.exchange("a", party.index * 10)
        second = party.exchange("b", {"from": party.index})
        party.end()
        return first, second

    wanted = [0, 10, 20], [{"from": 0}, {"from": 1}, {"from": 2}]
    assert run(port, work) == [wanted] * COUNT


def test_one_process_needs_no_other():
    with meet(None, {}, StopRequest()) as party:
        assert (party.index, party.count, party.first) == (0, 1, True)
        assert party.exchange("a", 7) == [7]
        party.check()
        party.end()


@pytest.mark.parametrize("who", [0, 1])
def test_a_stop_of_one_stops_all(port, who):
    def work(party, stop):
        if party.index == who:
            stop.signum = signal.SIGTERM
            time.sleep(0.5)  # the group in flight; the others know already
        waits(party, stop)

    for error in run(port, work):
        assert isinstance(error, Interrupted), error
        assert error.status == 128 + signal.SIGTERM
        assert "goes on" in str(error)


@pytest.mark.parametrize("who", [0, 2])
def test_bad_input_of_one_ends_all_with_its_line(port, who):
    def work(party, stop):
        if party.index == who:
            raise InputError("model.safetensors: NaN")
        waits(party, stop)

    for index, error in enumerate(run(port, work)):
        assert isinstance(error, InputError), error
        assert str(error) == ("" if index == who else f"process {who}: ") + "model.safetensors: NaN"


@pytest.mark.parametrize("who", [0, 1])
def test_a_fault_of_one_is_a_loss_for_the_others(port, who):
    def work(party, stop):
        if party.index == who:
            raise KeyError("x")
        waits(party, stop)

    results = run(port, work)
    assert isinstance(results.pop(who), KeyError)
    for error in results:
        assert isinstance(error, HostLost)
        assert f"process {who} failed (KeyError" in str(error)


def test_silence_is_a_loss(port, monkeypatch):
    monkeypatch.setattr(hosts, "SILENCE", 0.5)
    monkeypatch.setattr(hosts, "_BEAT", 0.1)
    monkeypatch.setattr(hosts, "_LOOK", 0.05)

    def work(party, stop):
        if party.index == 1:
            party._closed = True  # as of a machine that was cut off: nothing is sent any more
            time.sleep(2)
            return
        waits(party, stop)

    first, _, third = run(port, work)
    for error in (first, third):
        assert isinstance(error, HostLost), error
        assert "process 1 of 3" in str(error)
        assert "nothing heard of it" in str(error)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"p1": {"about": {"config": {"corner": 9}}}}, "config.corner: 25 there, 9 here"),
        ({"p2": {"index": 1}}, "two processes were started with --hosts_index=1"),
        ({"p1": {"count": 4}}, "process 1 .* --hosts_count=4, process 0 with 3"),
    ],
)
def test_processes_that_do_not_belong_together_are_refused(port, changed, said):
    results = run(port, waits, p0={"patience": 5.0}, **changed)
    assert all(isinstance(error, InputError | HostLost) for error in results), results
    assert isinstance(results[0], InputError)
    assert any(str(error).startswith("process 0: ") for error in results[1:])
    with pytest.raises(InputError, match=said):
        raise results[0]


def test_whoever_does_not_come_is_named(port):
    results = run(port, waits, 2, p0={"count": 3, "patience": 0.8}, p1={"count": 3})
    for error in results:
        assert isinstance(error, InputError)
        assert f"process 2 of 3 did not come to localhost:{port} within 0.8 s" in str(error)


def test_process_0_that_is_not_there(port):
    with pytest.raises(InputError, match="process 0 is not at localhost"):
        meet(HostsRequest("localhost", port, 2, 1, 0.5), {}, StopRequest())


def test_a_port_in_use_is_refused(port):
    with socket.create_server(("127.0.0.1", port)), pytest.raises(InputError, match="in use"):
        meet(HostsRequest("localhost", port, 2, 0, 5.0), {}, StopRequest())


def test_strangers_are_not_let_in(port):
    def stranger() -> None:
        for talk in (b"GET / HTTP/1.1\r\n\r\n", json.dumps({"kind": "stop"}).encode() + b"\n"):
            for _ in range(25):
                with (
                    contextlib.suppress(OSError),
                    socket.create_connection(("127.0.0.1", port)) as connection,
                ):
                    connection.sendall(talk)
                    break
                time.sleep(0.02)

    thread = threading.Thread(target=stranger)
    thread.start()

    def work(party, stop):
        found = party.exchange("a")
        party.end()
        return found

    late = {"p1": {"patience": 20.0}}
    assert run(port, work, 2, **late) == [[None, None]] * 2
    thread.join()
