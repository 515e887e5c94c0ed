"""A sweep that is killed at any moment goes on and ends with the same numbers."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from tests.sweep import harness

KILLS = 5


@pytest.fixture(scope="module")
def arguments(square):
    """Those of a sweep of many small groups."""
    base, post = square
    return [
        f"--config=configs/pair.py:base={base},post={post}",
        "--config.group_bytes=1",
        "--config.stages=('spectra',)",
        "--config.measure=vectors",
        "--config.devices=1",
    ]


@pytest.fixture(scope="module")
def calm(arguments, tmp_path_factory):
    """The undisturbed sweep: its workdir and how many groups it computed."""
    workdir = tmp_path_factory.mktemp("calm") / "W"
    done = harness.sweep_here(*arguments, f"--workdir={workdir}")
    assert done.status == 0, done.err
    return workdir, done.computed


@pytest.fixture(scope="module")
def stopped(arguments, env, tmp_path_factory):
    """A process that SIGTERM ended after some groups, and what another said meanwhile."""
    workdir = tmp_path_factory.mktemp("stopped") / "W"
    process = start(env, arguments, workdir, groups=3)
    process.send_signal(signal.SIGSTOP)
    try:
        second = harness.sweep_here(*arguments, f"--workdir={workdir}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
    return workdir, harness.finish(process), second


def start(env, arguments, workdir, groups: int) -> subprocess.Popen[str]:
    """Starts a sweep and waits until some groups are journaled."""
    process = harness.start(env, *arguments, f"--workdir={workdir}")
    journal = workdir / ".journal" / "pair"
    while process.poll() is None and not (
        journal.is_dir() and len(list(journal.glob("*.npz"))) >= groups
    ):
        time.sleep(0.001)
    return process


def copied(workdir, tmp_path):
    """The workdir once more, for a test to go on from."""
    return shutil.copytree(workdir, tmp_path / "W")


def same(found, wanted) -> None:
    """Identical, to the last bit."""
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def temporary_file(directory) -> bool:
    """Whether a file is being written there right now."""
    try:
        with os.scandir(directory) as entries:
            return any(entry.name.startswith(".svdjax-") for entry in entries)
    except FileNotFoundError:
        return False


def kill(process: subprocess.Popen[str], workdir, moment: int, chance, seconds) -> None:
    """Kills at a random moment: of the whole run, of its computing, or while it writes."""
    whole, computing = seconds
    journal = workdir / ".journal" / "pair"
    if moment % 4 == 0:
        wait(process, chance.uniform(0, whole))
    elif moment % 4 == 1:
        place = chance.choice([journal, journal, workdir, workdir / "pair"])
        sights = chance.randint(1, 5)
        while process.poll() is None and sights:
            if temporary_file(place):
                sights -= 1
                while sights and process.poll() is None and temporary_file(place):
                    pass
    else:
        while process.poll() is None and not journal.is_dir():
            time.sleep(0.001)
        wait(process, chance.uniform(0, computing))
    process.kill()


def wait(process: subprocess.Popen[str], seconds: float) -> None:
    """Waits so long, or until the process has ended by itself."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=seconds)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_at_any_moment(pair_of, env, tmp_path):
    base, post = pair_of("llama")
    arguments = [
        f"--config=configs/pair.py:base={base},post={post}",
        "--config.group_bytes=1",
        "--config.stages=('spectra',)",
    ]
    assert harness.sweep(env, *arguments, f"--workdir={tmp_path / 'warm'}").status == 0
    began = time.monotonic()
    calm = harness.sweep(env, *arguments, f"--workdir={tmp_path / 'calm'}")
    assert calm.status == 0, calm.err
    whole = time.monotonic() - began
    record = json.loads((tmp_path / "calm" / "sweep.json").read_text())
    seconds = (whole, record["stages"]["spectra"]["seconds"])
    wanted, groups = harness.spectra(tmp_path / "calm"), calm.computed
    chance = random.Random(20)
    killed = sweeps = 0
    while killed < KILLS:
        workdir = tmp_path / f"W{sweeps}"
        labels: collections.Counter[str] = collections.Counter()
        while True:
            began = time.monotonic()
            process = harness.start(env, *arguments, f"--workdir={workdir}")
            if killed < KILLS:
                kill(process, workdir, killed, chance, seconds)
            done = harness.finish(process)
            labels.update(re.findall(r"^computed \d+/\d+ (\S+ \S+)", done.err, re.MULTILINE))
            if done.status == 0:
                # A machine that has become quicker is killed sooner.
                factor = min(1.0, (time.monotonic() - began) / seconds[0])
                seconds = (seconds[0] * factor, seconds[1] * factor)
                break
            assert done.status == -signal.SIGKILL, done.err
            killed += 1
        # A logged group lies in the journal: what a kill can cost is only the one in flight.
        assert max(labels.values(), default=0) <= 1
        assert len(labels) <= groups
        same(harness.spectra(workdir), wanted)
        assert harness.leftovers(workdir) == []
        assert json.loads((workdir / "sweep.json").read_text())["status"] == "done"
        sweeps += 1


def test_a_killed_process_is_continued(arguments, calm, env, tmp_path):
    wanted, groups = calm
    workdir = tmp_path / "W"
    process = start(env, arguments, workdir, groups=2)
    process.kill()
    done = harness.finish(process)
    assert done.status == -signal.SIGKILL, done.err
    again = harness.sweep_here(*arguments, f"--workdir={workdir}")
    assert again.status == 0, again.err
    # A logged group lies in the journal; the one in flight may lie there before it is logged.
    assert groups - 1 <= done.computed + again.computed <= groups
    same(harness.spectra(workdir), harness.spectra(wanted))
    assert harness.leftovers(workdir) == []
    assert json.loads((workdir / "sweep.json").read_text())["status"] == "done"


def test_a_signal_ends_cleanly_after_the_group_in_flight(stopped, arguments, calm, tmp_path):
    workdir, done, _ = stopped
    wanted, groups = calm
    assert done.status == 128 + signal.SIGTERM, done.err
    assert "Traceback" not in done.err
    assert "same command goes on" in done.err.splitlines()[-1]
    assert json.loads((workdir / "sweep.json").read_text())["status"] == "stopped"
    assert not list(workdir.rglob("*.tmp"))
    workdir = copied(workdir, tmp_path)
    again = harness.sweep_here(*arguments, f"--workdir={workdir}")
    assert again.status == 0, again.err
    assert done.computed + again.computed == groups
    assert f"reused {done.computed}/{groups} groups" in again.err
    same(harness.spectra(workdir), harness.spectra(wanted))


def test_the_second_sweep_in_a_workdir_is_refused(stopped):
    # That it disturbed nothing, the test above has seen.
    _, _, second = stopped
    assert second.status == 2, second.err
    assert "in use by another sweep" in second.err


def test_torn_and_foreign_journal_files_are_computed_again(stopped, arguments, calm, tmp_path):
    workdir, done, _ = stopped
    wanted, groups = calm
    workdir = copied(workdir, tmp_path)
    torn, swapped, *_ = files = sorted((workdir / ".journal" / "pair").glob("*.npz"))
    torn.write_bytes(torn.read_bytes()[:-100])
    shutil.copy(files[2], swapped)
    (workdir / ".journal" / "pair" / ".svdjax-left.tmp").write_bytes(b"torn")
    again = harness.sweep_here(*arguments, f"--workdir={workdir}")
    assert again.status == 0, again.err
    assert again.computed == groups - done.computed + 2
    same(harness.spectra(workdir), harness.spectra(wanted))
    assert harness.leftovers(workdir) == []


def test_a_finished_sweep_does_nothing_and_says_so(arguments, calm, tmp_path):
    workdir = copied(calm[0], tmp_path)

    def stamps() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}

    before = stamps()
    again = harness.sweep_here(*arguments, f"--workdir={workdir}")
    assert again.status == 0, again.err
    assert "nothing to do" in again.out
    assert again.computed == 0
    assert stamps() == before


def test_a_workdir_that_is_deleted_meanwhile_is_not_done(arguments, tmp_path):
    workdir, seen = tmp_path / "W", []

    def delete(done: str) -> None:
        if done.startswith("3 of"):
            seen.append(done)
            shutil.rmtree(workdir, ignore_errors=True)

    done = harness.sweep_here(*arguments, f"--workdir={workdir}", stop=delete)
    assert seen
    assert done.status == 2, done.err
    assert str(workdir) in done.err.splitlines()[-1]
