"""Two real processes of two CPU devices each make what one process makes, whoever is killed."""

from __future__ import annotations

import json
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from tests.engine.hosts.outcome import journaled, one_line, same, when_computing
from tests.sweep import harness

COUNT = 2


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
def test_the_first_is_killed_and_one_process_completes(job, tmp_path):
    _, arguments, alone, _ = job
    workdir = tmp_path / "W"
    lost(job, workdir, victim=0)
    assert journaled(workdir)
    # One process can finish what two have begun.
    last = harness.sweep_here(*arguments, f"--workdir={workdir}")
    assert last.status == 0, last.err
    assert "from the journal" in last.err
    same(workdir, alone)


@pytest.mark.timeout(240)
def test_the_second_is_killed_and_a_restart_is_stopped(job, tmp_path):
    workdir = tmp_path / "W"
    lost(job, workdir, victim=1)
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


@pytest.mark.slow
def test_what_one_process_cannot_use_ends_both(job, tmp_path):
    workdir = tmp_path / "W"
    for one in map(harness.finish, start(job, workdir, ("--config.corner=9",))):
        assert one.status == 2, one.err
        assert "config.corner: 25 there, 9 here" in one_line(one)
    assert not workdir.exists()


def test_flags_that_do_not_fit_are_refused(job):
    _, arguments, _, _ = job
    done = harness.sweep_here(*arguments, "--hosts_count=2", "--hosts_index=2")
    assert done.status == 2
    assert "--hosts_coordinator missing" in one_line(done)
