"""Sweeps started by Open MPI and by SLURM, where there are such: no flag says who takes part."""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import signal
import subprocess

import pytest

from tests.engine.hosts.outcome import same, when_computing
from tests.sweep import harness

LAUNCHERS = {
    "OMPI_COMM_WORLD_RANK": (
        *("mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"),
        *("-n", "2"),
    ),
    "SLURM_PROCID": ("srun", "--ntasks=2", "--overcommit", "--immediate=10", "--quiet"),
}
"""By the variable in which each tells a process its number. Open MPI would give each a core."""


# Session-wide like the job, so that where there is no launcher no job is made.
@pytest.fixture(scope="session", params=LAUNCHERS)
def rank(request) -> str:
    """The variable of a launcher that works here."""
    launcher = LAUNCHERS[request.param]
    if shutil.which(launcher[0]) is None:
        pytest.skip(f"no {launcher[0]}")
    trial = subprocess.run([*launcher, "env"], capture_output=True, text=True, timeout=60)
    if trial.returncode or f"{request.param}=1" not in trial.stdout:
        pytest.skip(f"{launcher[0]} starts nothing here: {trial.stderr}")
    if launcher[0] == "mpirun" and "OMPI_MCA_orte_hnp_uri=" not in trial.stdout:
        pytest.skip("Open MPI 5 does not say where process 0 is")
    return request.param


def launch(rank: str, job, workdir: pathlib.Path) -> subprocess.Popen[str]:
    """Starts two processes."""
    env, arguments, _, _ = job
    return subprocess.Popen(
        [*LAUNCHERS[rank], *harness.command(*arguments, f"--workdir={workdir}")],
        cwd=harness.ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def process_of(rank: str, index: int, workdir: pathlib.Path) -> int:
    """Number of the process that a launcher has started as number `index`."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = command[1:3] == [b"-m", b"svdjax.sweep"] and os.fsencode(workdir) in command[-2]
        if ours and f"{rank}={index}".encode() in variables:
            return int(folder.name)
    raise LookupError(f"no process with {rank}={index}")


def test_the_workdir_is_that_of_one_process(rank, job, tmp_path):
    _, _, alone, groups = job
    done = harness.finish(launch(rank, job, tmp_path / "W"))
    assert done.status == 0, done.err
    # A launcher may join lines of two processes.
    assert len(re.findall(r"computed \d+/", done.err)) == groups
    assert done.out.count("done: 1 pair(s)") == 1
    same(tmp_path / "W", alone)


def test_a_process_that_dies_ends_the_run_and_a_restart_completes_it(rank, job, tmp_path):
    _, _, alone, _ = job
    workdir = tmp_path / "W"
    run = launch(rank, job, workdir)
    when_computing(workdir, [run], set())
    os.kill(process_of(rank, 1, workdir), signal.SIGKILL)
    assert run.communicate(timeout=30)[1]
    assert run.returncode != 0
    done = harness.finish(launch(rank, job, workdir))
    assert done.status == 0, done.err
    assert "from the journal" in done.err
    same(workdir, alone)
