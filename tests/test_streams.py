"""Standard streams that are closed, full, or have lost their reader. Real processes."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.sweep import harness

WORK = """
import errno, os, sys, tqdm
from svdjax import cli
from svdjax.engine.progress import note
def main():
    for number in tqdm.tqdm(range(300), file=sys.stderr):
        note("computed " + "x" * 1000)
    with open(os.environ["FILE"], "w") as file:
        print(file.fileno(), file=file)
    if "BROKEN" in os.environ:
        raise BrokenPipeError(errno.EPIPE, "of the work")
    return "summary"
sys.argv = ["x"]
cli.run(main)
"""


def work(tmp_path: pathlib.Path, shell: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    """A command that tells a lot and writes one file; `shell` says where its streams go."""
    command = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", sys.executable, "-c", WORK]
    return subprocess.run(
        command,
        env=os.environ | {"PYTHONPATH": str(harness.ROOT), "FILE": str(tmp_path / "file")} | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    "shell",
    [
        *("2>&1 | head -1", "2> >(head -1 >&2)", "| true", "2>/dev/full"),
        *(">&-", "2>&-", "<&-", ">&- 2>&-", ">&- 2>&- <&-"),
    ],
)
def test_work_goes_on_whoever_listens(shell, tmp_path):
    done = work(tmp_path, shell)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    # No file of the work gets the number of a stream.
    assert int((tmp_path / "file").read_text()) > 2


def test_a_summary_that_cannot_be_written_is_told(tmp_path):
    done = work(tmp_path, ">/dev/full")
    assert done.returncode == 2
    assert "stdout cannot be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_pipe_of_the_work_that_breaks_is_not_excused(tmp_path):
    done = work(tmp_path, BROKEN="1")
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


@pytest.mark.parametrize("shell", ["| head -1", ">&-"])
def test_help_that_nobody_reads_to_its_end(shell):
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m svdjax.sweep --help {shell}"],
        cwd=harness.ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_sweep_whose_log_is_not_read_ends_as_any_other(square_models, env, tmp_path):
    base, post = square_models
    flags = [
        *(f"--config=configs/pair.py:base={base},post={post}", "--config.group_bytes=1"),
        *("--config.stages=('spectra',)", "--config.devices=1", f"--workdir={tmp_path / 'W'}"),
    ]
    with harness.start(env, *flags) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("computed 1/")
        process.stderr.close()
    assert process.returncode == 0
    assert json.loads((tmp_path / "W" / "sweep.json").read_text())["status"] == "done"
    assert (tmp_path / "W" / "pair" / "spectra.npz").is_file()


@pytest.fixture(scope="module")
def square_models(tmp_path_factory):
    return harness.square_pair(tmp_path_factory.mktemp("square"))
