"""Two real processes of two CPU devices each make what one process makes, whoever is killed."""

from __future__ import annotations

import json
import pathlib
import signal
import socket
import subprocess
import time

import numpy as np
import pytest

from tests.engine import harness
from tests.engine.hosts.models import family

COUNT = 2


@pytest.fixture(scope="module")
def job(env, tmp_path_factory):
    """Environment and arguments of a sweep of many small groups, and the workdir of one process."""
    models = family(tmp_path_factory.mktemp("models"), ["post"], layers=12, width=256)
    two = env | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    arguments = [
        f"--config=configs/pair.py:base={models / 'base'},post={models / 'post'}",
        "--config.group_bytes=1",
        "--config.measure=vectors",
        "--config.factorisation=svd_f64",
        "--config.stages=('spectra',)",
    ]
    workdir = tmp_path_factory.mktemp("alone") / "W"
    done = harness.sweep(two, *arguments, f"--workdir={workdir}")
    assert done.status == 0, done.err
    return two, arguments, workdir, done.computed


def start(job, workdir: pathlib.Path, more: tuple[str, ...] = ()) -> list[subprocess.Popen[str]]:
    """Starts both processes; `more` are arguments of process 1 alone."""
    env, arguments, _, _ = job
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    together = [f"--hosts_coordinator=localhost:{port}", f"--hosts_count={COUNT}"]
    return [
        harness.start(
            env,
            *arguments,
            f"--workdir={workdir}",
            *together,
            f"--hosts_index={index}",
            *(more if index else ()),
        )
        for index in range(COUNT)
    ]


def journaled(workdir: pathlib.Path) -> set[pathlib.Path]:
    """The files of the groups in the journal."""
    return set((workdir / ".journal" / "pair").glob("*.npz"))


def when_computing(
    workdir: pathlib.Path, processes: list[subprocess.Popen[str]], before: set[pathlib.Path]
) -> None:
    """Waits until something is new in the journal."""
    while not journaled(workdir) - before:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.001)


def one_line(done: harness.Done) -> str:
    """What a process says beside its progress, which is one line."""
    quiet = ("computed ", "continuing: ", "waiting for the groups")
    (line,) = [line for line in done.err.splitlines() if not line.startswith(quiet)]
    return line


def lost(job, workdir: pathlib.Path, victim: int) -> None:
    """Kills one of two processes, and looks how the other ends."""
    before = journaled(workdir)
    processes = start(job, workdir)
    when_computing(workdir, processes, before)
    processes[victim].kill()
    began = time.monotonic()
    survivor = harness.finish(processes[1 - victim])
    harness.finish(processes[victim])
    assert time.monotonic() - began < 30
    assert survivor.status == 3, survivor.err
    line = one_line(survivor)
    assert f"process {victim} of 2" in line
    assert "the same command goes on from here" in line
    assert not survivor.out


def same(found: pathlib.Path, wanted: pathlib.Path) -> None:
    """The same results to the last bit, and the same record but for devices and times."""
    arrays, others = harness.spectra(found), harness.spectra(wanted)
    assert set(arrays) == set(others)
    for key, value in others.items():
        np.testing.assert_array_equal(arrays[key], value, err_msg=key)
    one, other = ((w / "pair" / "summary.json").read_bytes() for w in (found, wanted))
    assert one == other
    records = [json.loads((w / "sweep.json").read_text()) for w in (found, wanted)]
    for record in records:
        assert record["status"] == "done"
        for changing in ("devices", "started", "finished", "stages"):
            del record[changing]
    assert records[0] == records[1]
    assert harness.leftovers(found) == []


def test_the_workdir_is_that_of_one_process(job, tmp_path):
    _, _, alone, groups = job
    workdir = tmp_path / "W"
    done = [harness.finish(process) for process in start(job, workdir)]
    assert [one.status for one in done] == [0, 0], done
    # Each group was computed once, by one of them, and neither had nothing to do.
    assert done[0].computed + done[1].computed == groups
    assert min(one.computed for one in done) > 0
    assert "done: 1 pair(s)" in done[0].out
    assert not done[1].out
    devices = json.loads((workdir / "sweep.json").read_text())["devices"]
    assert [line[:10] for line in devices] == ["process 0:"] * 2 + ["process 1:"] * 2
    same(workdir, alone)


@pytest.mark.timeout(240)
def test_who_is_killed_or_stopped_ends_all_and_a_restart_completes(job, tmp_path):
    env, arguments, alone, _ = job
    workdir = tmp_path / "W"
    lost(job, workdir, victim=1)
    lost(job, workdir, victim=0)
    kept = journaled(workdir)
    assert kept
    processes = start(job, workdir)
    while "continuing" not in (processes[0].stderr.readline() if processes[0].stderr else ""):
        assert processes[0].poll() is None
    processes[1].send_signal(signal.SIGTERM)
    for one in map(harness.finish, processes):
        assert one.status == 128 + signal.SIGTERM, one.err
        assert "stopped by SIGTERM" in one_line(one)
    assert json.loads((workdir / "sweep.json").read_text())["status"] == "stopped"
    assert kept <= journaled(workdir)
    # One process can finish what two have begun.
    last = harness.sweep(env, *arguments, f"--workdir={workdir}")
    assert last.status == 0, last.err
    assert "from the journal" in last.err
    same(workdir, alone)


@pytest.mark.slow
def test_what_one_process_cannot_use_ends_both(job, tmp_path):
    workdir = tmp_path / "W"
    for one in map(harness.finish, start(job, workdir, ("--config.corner=9",))):
        assert one.status == 2, one.err
        assert "config.corner: 25 there, 9 here" in one_line(one)
    assert not workdir.exists()


def test_flags_that_do_not_fit_are_refused_before_jax_is_loaded(job):
    env, arguments, _, _ = job
    done = harness.sweep(env, *arguments, "--hosts_count=2", "--hosts_index=2")
    assert done.status == 2
    assert "--hosts_coordinator missing" in one_line(done)
