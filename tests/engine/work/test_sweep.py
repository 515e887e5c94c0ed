"""Sweeps on workers of a cluster that the command starts itself, against one process."""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from tests.engine.work.outcome import journaled, one_line, processes, same
from tests.support.novel import family, save, tensors
from tests.sweep import harness

pytest.importorskip("ray")


@pytest.fixture(scope="session")
def job(env, tmp_path_factory):
    """Environment and arguments of a sweep of many small groups, and the workdir of one process."""
    models = family(tmp_path_factory.mktemp("models"), ["post"], layers=12, width=256)
    arguments = [
        f"--config=configs/pair.py:base={models / 'base'},post={models / 'post'}",
        "--config.group_bytes=1",
        "--config.measure=vectors",
        "--config.factorisation=svd_f64",
        "--config.stages=('spectra',)",
        "--config.devices=1",
    ]
    workdir = tmp_path_factory.mktemp("alone") / "W"
    done = harness.sweep_here(*arguments, f"--workdir={workdir}")
    assert done.status == 0, done.err
    return env, arguments, workdir, done.computed


def on_ray(env, *arguments: str) -> subprocess.Popen[str]:
    return harness.start(env, *arguments, "--workers=ray")


def when_journaled(workdir: pathlib.Path, process: subprocess.Popen[str], count: int = 1) -> None:
    """Waits until some groups are in the journal."""
    while len(journaled(workdir)) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def gone(pids: list[int], seconds: float) -> bool:
    """Whether processes end within a time."""
    deadline = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_two_workers_give_what_one_process_gives(job, tmp_path):
    env, arguments, alone, computed = job
    done = harness.finish(on_ray(env, *arguments, f"--workdir={tmp_path / 'W'}"))
    assert done.status == 0, done.err
    assert done.computed == computed
    same(tmp_path / "W", alone)
    # Nothing but the summary on stdout, nothing but progress on stderr.
    assert done.out.startswith("done: 1 pair(s)")
    assert all(line.startswith("computed ") for line in done.err.splitlines())
    devices = json.loads((tmp_path / "W" / "sweep.json").read_text())["devices"]
    assert [re.sub(r"\d+", "N", one) for one in devices] == [
        f"worker N on {re.sub(r'[0-9]+', 'N', os.uname().nodename)}: cpu:N cpu"
    ] * 2


@pytest.mark.slow
def test_a_killed_worker_is_no_event(job, tmp_path):
    env, arguments, alone, computed = job
    process = on_ray(env, *arguments, f"--workdir={tmp_path / 'W'}")
    when_journaled(tmp_path / "W", process, 3)
    processes(process.pid, "ray::Worker")[0].kill()
    done = harness.finish(process)
    assert done.status == 0, done.err
    assert done.computed == computed
    (line,) = [line for line in done.err.splitlines() if not line.startswith("computed ")]
    assert " is lost (" in line
    same(tmp_path / "W", alone)


@pytest.mark.slow
def test_sigterm_stops_and_the_same_command_goes_on_in_one_process(job, tmp_path):
    env, arguments, alone, computed = job
    workdir = tmp_path / "W"
    process = on_ray(env, *arguments, f"--workdir={workdir}")
    when_journaled(workdir, process, 3)
    pids = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    done = harness.finish(process)
    assert done.status == 143, done.err
    assert time.monotonic() - start < 15
    assert json.loads((workdir / "sweep.json").read_text())["status"] == "stopped"
    assert gone(pids, 10)
    kept = len(journaled(workdir))
    assert 3 <= kept < computed
    done = harness.sweep_here(*arguments, f"--workdir={workdir}")
    assert done.status == 0, done.err
    assert done.computed == computed - kept
    same(workdir, alone)


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_and_a_journal(job, tmp_path):
    env, arguments, alone, computed = job
    workdir = tmp_path / "W"
    process = on_ray(env, *arguments, f"--workdir={workdir}")
    when_journaled(workdir, process, 3)
    pids = [worker.pid for worker in processes(process.pid, "ray::Worker")]
    process.kill()
    process.communicate()
    kept = len(journaled(workdir))
    assert len(pids) == 2
    assert gone(pids, 10)  # two agents of Ray's own take a minute
    done = harness.finish(on_ray(env, *arguments, f"--workdir={workdir}"))
    assert done.status == 0, done.err
    assert done.computed == computed - kept
    same(workdir, alone)


@pytest.mark.slow
def test_a_sweep_begun_in_one_process_goes_on_on_workers(job, tmp_path):
    env, arguments, alone, computed = job
    workdir = tmp_path / "W"
    process = harness.start(env, *arguments, f"--workdir={workdir}")
    when_journaled(workdir, process, 3)
    process.kill()
    process.communicate()
    kept = len(journaled(workdir))
    done = harness.finish(on_ray(env, *arguments, f"--workdir={workdir}"))
    assert done.status == 0, done.err
    assert done.computed == computed - kept
    same(workdir, alone)


@pytest.mark.slow
def test_a_base_with_two_posts_is_shared(env, tmp_path):
    models = family(tmp_path, ["one", "two"], layers=4, width=128)
    (tmp_path / "config.py").write_text(
        f"""from svdjax.options import default_config

def get_config():
    root = "{models}"
    return default_config(
        "two",
        {{n: {{"base": f"{{root}}/base", "post": f"{{root}}/{{n}}"}} for n in ("one", "two")}},
    )
"""
    )
    arguments = [
        f"--config={tmp_path / 'config.py'}",
        "--config.devices=1",
        "--config.group_bytes=1",
        "--config.stages=('spectra',)",
    ]
    here = harness.sweep_here(*arguments, f"--workdir={tmp_path / 'here'}")
    assert here.status == 0, here.err
    done = harness.finish(on_ray(env, *arguments, f"--workdir={tmp_path / 'ray'}"))
    assert done.status == 0, done.err
    for pair in ("one", "two"):
        for file in ("summary.json", "spectra.npz", "vectors.npz"):
            assert (tmp_path / "here" / pair / file).read_bytes() == (
                tmp_path / "ray" / pair / file
            ).read_bytes()


@pytest.mark.slow
def test_values_that_cannot_be_used_leave_no_workdir(job, env, tmp_path):
    values = tensors(12, 256, 3)
    values["layers.7.up.weight"][0, 0] = np.nan
    bad = save(tmp_path / "bad", values)
    _, arguments, *_ = job
    arguments = [re.sub("post=.*", f"post={bad}", one) for one in arguments]
    done = harness.finish(on_ray(env, *arguments, f"--workdir={tmp_path / 'W'}"))
    assert done.status == 2
    assert "layers.7.up.weight" in one_line(done)
    assert not (tmp_path / "W").exists()


def test_without_ray_one_line_says_what_to_install(job, tmp_path):
    env, arguments, *_ = job
    (tmp_path / "ray.py").write_text("raise ModuleNotFoundError(\"No module named 'ray'\")\n")
    env = env | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"}
    done = harness.finish(on_ray(env, *arguments, f"--workdir={tmp_path / 'W'}"))
    assert done.status == 2
    assert 'pip install "svdjax[ray]"' in one_line(done)
    assert not (tmp_path / "W").exists()


def test_one_process_does_without_ray(job):
    env, *_ = job
    code = (
        "import sys; import svdjax.sweep.run, svdjax.sweep.session, svdjax.engine.work.unit; "
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0


@pytest.mark.slow
def test_projections_whose_labels_are_alike_are_units_of_their_own(env, tmp_path):
    name = "base_model.model.multimodal.language_backbone.layers.{}.mixture_block.feed_forward.{}"
    for side, seed in (("base", 0), ("post", 1)):
        values = tensors(3, 32, seed)
        save(
            tmp_path / side,
            {name.format(*key.split(".")[1:3]) + ".weight": w for key, w in values.items()},
        )
    arguments = [
        f"--config=configs/pair.py:base={tmp_path / 'base'},post={tmp_path / 'post'}",
        "--config.stages=('spectra',)",
        "--config.devices=1",
    ]
    here = harness.sweep_here(*arguments, f"--workdir={tmp_path / 'here'}")
    done = harness.finish(on_ray(env, *arguments, f"--workdir={tmp_path / 'W'}"))
    assert done.status == here.status == 0, done.err
    same(tmp_path / "W", tmp_path / "here")


@pytest.mark.slow
def test_sigterm_while_ray_starts_leaves_nothing(job, tmp_path):
    env, arguments, *_ = job
    before = set(pathlib.Path("/tmp").glob("svdjax-ray-*"))
    process = on_ray(env, *arguments, f"--workdir={tmp_path / 'W'}")
    while not processes(process.pid, "raylet"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    done = harness.finish(process)
    assert done.status == 143, done.err
    assert "stopped by SIGTERM" in one_line(done)
    assert not (tmp_path / "W").exists()
    assert set(pathlib.Path("/tmp").glob("svdjax-ray-*")) <= before


@pytest.mark.slow
def test_more_devices_than_there_are_is_refused(job, tmp_path):
    env, arguments, *_ = job
    arguments = [one for one in arguments if "devices" not in one]
    done = harness.finish(
        on_ray(env, *arguments, "--config.devices=1000", f"--workdir={tmp_path / 'W'}")
    )
    assert done.status == 2
    assert "config.devices=1000: no node of the cluster has more than" in one_line(done)


@pytest.mark.slow
def test_two_sweeps_of_one_process(job, tmp_path):
    env, arguments, *_ = job
    pair = arguments[0].partition(":")[2]
    code = f"""
import svdjax.sweep.run as run
from ml_collections import ConfigDict
from svdjax.options import default_config
sides = dict(side.split("=") for side in {pair!r}.split(","))
for name in ("one", "two"):
    config = default_config("pair", {{"pair": sides}}, stages=("spectra",), devices=1)
    print(run.run_sweep(config, f"{tmp_path}/{{name}}", workers="ray").computed)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    same(tmp_path / "one", tmp_path / "two")
