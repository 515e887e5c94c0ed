"""Workers of a Ray cluster: real processes that die, hang, refuse, come late and differ."""

from __future__ import annotations

import collections
import signal
import threading
import time
from typing import Any

import pytest

from svdjax.engine.signals import StopRequest
from svdjax.engine.work.unit import Unit
from svdjax.errors import InputError, Interrupted, WorkersLost
from tests.engine.work.toys import Session, Toys, units

ray_workers = pytest.importorskip("svdjax.engine.work.ray")
pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and files to the end of the process.
    pytest.mark.filterwarnings("ignore"),
]
SAME = {"versions": {"toys": "1"}}


def opened(stop: StopRequest, *arguments: Any, expected: Any = SAME, **options: Any) -> Any:
    """Workers of one core each."""
    return ray_workers.RayWorkers(Session, arguments, expected, devices=1, stop=stop, **options)


def done(workers: Any, stop: StopRequest, some: list[Unit], shared: Any = None) -> list[Any]:
    """The values of units, in the order in which they came."""
    return [piece.value for piece in workers.do(Toys(), some, stop.check, shared)]


def test_every_unit_is_done_once_with_what_they_share(cluster):
    with StopRequest() as stop, opened(stop) as workers:
        assert len(workers.open(stop.check)) == 2
        values = done(workers, stop, units(*["sleep 0.05"] * 20), shared={"a": 1})
        assert [value[:2] for value in values] == [("sleep 0.05", {"a": 1})] * 20
        assert len({value[2] for value in values}) == 2, "both workers had some"
        # Another stage on the same workers; parts of a unit come together and in order.
        assert [v if v == 1 else v[0] for v in done(workers, stop, units("twice"))] == [1, "twice"]
        assert workers.failed == {}


def test_units_of_a_dead_worker_are_done_by_others(cluster, tmp_path, capfd):
    tasks = [f"die_once {tmp_path / 'flag'}", *["sleep 0.1"] * 10]
    with StopRequest() as stop, opened(stop) as workers:
        values = done(workers, stop, units(*tasks))
        assert collections.Counter(value[0] for value in values) == collections.Counter(tasks)
        assert workers.failed == {}
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "lost" in line]
    assert "others do die_once" in line


def test_a_unit_that_kills_its_workers_is_left_out_and_named(cluster, capfd):
    with StopRequest() as stop, opened(stop) as workers:
        values = done(workers, stop, units("die", *["sleep 0.01"] * 6))
        assert [value[0] for value in values] == ["sleep 0.01"] * 6
        (reason,) = workers.failed.values()
        assert reason.startswith("die: 3 workers died of it")
    lines = capfd.readouterr().err.splitlines()
    assert len([line for line in lines if "lost" in line]) == 3


def test_a_worker_whose_device_is_broken_is_replaced(cluster):
    with StopRequest() as stop, opened(stop) as workers:
        values = done(workers, stop, units("break", "sleep 0.01"))
        assert [value[0] for value in values] == ["sleep 0.01"]
        (reason,) = workers.failed.values()
        assert "no room on the device" in reason


def test_an_idle_worker_takes_a_copy_of_what_hangs(cluster, tmp_path):
    start = time.monotonic()
    with StopRequest() as stop, opened(stop) as workers:
        workers.open(stop.check)
        start = time.monotonic()
        values = done(workers, stop, units(f"hang_once {tmp_path / 'flag'}", "sleep 0.01"))
        assert len(values) == 2
        assert time.monotonic() - start < 15
        # The one that hangs holds up no other stage.
        assert len(done(workers, stop, units(*["sleep 0.01"] * 3))) == 3
        assert time.monotonic() - start < 30


def test_a_node_that_goes_and_one_that_comes(cluster):
    with StopRequest() as stop, opened(stop) as workers:
        assert len(workers.open(stop.check)) == 2
        stream = workers.do(Toys(), units(*["sleep 0.5"] * 60), stop.check)
        pieces = [next(stream).value]
        late = cluster.add_node(num_cpus=1, object_store_memory=2 * 10**8)
        while len({value[2] for value in pieces}) < 3:
            pieces.append(next(stream).value)
        cluster.remove_node(late, allow_graceful=False)
        pieces += [piece.value for piece in stream]
        assert len(pieces) == 60
        assert workers.failed == {}


def test_no_worker_ends_the_run(cluster):
    with (
        StopRequest() as stop,
        ray_workers.RayWorkers(Session, (), SAME, devices=64, stop=stop, patience=3.0) as workers,
        pytest.raises(WorkersLost, match="no worker for 3 s; the same command goes on"),
    ):
        workers.open(stop.check)


def test_workers_that_die_as_they_start_end_the_run(cluster, capfd):
    with (
        StopRequest() as stop,
        opened(stop, "1", "die") as workers,
        pytest.raises(WorkersLost, match="workers die as they start"),
    ):
        workers.open(stop.check)
    assert len([line for line in capfd.readouterr().err.splitlines() if "lost" in line]) <= 5


def test_what_cannot_be_used_ends_the_run(cluster):
    with StopRequest() as stop, opened(stop) as workers:
        with pytest.raises(InputError, match="the file is not what it was"):
            done(workers, stop, units("sleep 0.1", "refuse"))
        with pytest.raises(RuntimeError, match="ZeroDivisionError: a fault of ours"):
            done(workers, stop, units("fault"))


def test_remarks_of_workers_are_told(cluster, capfd):
    with StopRequest() as stop, opened(stop) as workers:
        done(workers, stop, units("note"))
    assert "a remark" in capfd.readouterr().err.splitlines()


def test_other_versions_are_refused(cluster, tmp_path):
    expected = {"versions": {"toys": "2"}}
    with (
        StopRequest() as stop,
        opened(stop, expected=expected) as workers,
        pytest.raises(InputError, match=r"versions \{'toys': '1'\} there, \{'toys': '2'\} here"),
    ):
        workers.open(stop.check)
    with (
        StopRequest() as stop,
        opened(stop, "1", str(tmp_path / "flag")) as workers,
        pytest.raises(InputError, match=r"'another'\} there, \{'toys': '1'\} here"),
    ):
        workers.open(stop.check)


def test_a_stop_request_is_heard_while_workers_are_busy(cluster):
    with StopRequest() as stop, opened(stop) as workers:
        workers.open(stop.check)
        request = threading.Timer(1.0, setattr, (stop, "signum", signal.SIGTERM))
        request.start()
        start = time.monotonic()
        with pytest.raises(Interrupted, match="toys: 0 of 2 units done"):
            done(workers, stop, units("sleep 60", "sleep 60"))
        assert time.monotonic() - start < 3


def test_signals_are_heard_after_ray_took_them(cluster):
    with StopRequest() as stop, opened(stop) as workers:
        workers.open(stop.check)
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            stop.check()
        stop.signum = None


def test_a_cluster_that_cannot_be_joined_is_named(cluster, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with StopRequest() as stop, pytest.raises(InputError, match=r"RAY_ADDRESS=127\.0\.0\.1:1: Ray"):
        opened(stop)
