"""Limits and variables under which no command can work: one line and status 2. Real processes."""

from __future__ import annotations

import errno
import subprocess
import sys

import pytest

from svdjax.engine.memory import is_memory_fault
from tests.sweep.harness import ROOT, environment

COMMANDS = {
    "sweep": ["--config=configs/pair.py:base=/nowhere,post=/nowhere"],
    "construct": ["--base=/nowhere", "--post=/nowhere", "--construction=eq9", "--out=/nowhere/o"],
    "evaluate": ["--model=/nowhere", "--benchmark=gsm8k", "--data=/nowhere", "--out=/nowhere/o"],
    "probe": ["--models=/nowhere", "--prompts=/nowhere", "--out=/nowhere/o"],
    "fingerprint": ["--reference=/nowhere", "--suspect=/nowhere/2", "--out=/nowhere/o"],
    "harness": ["ls"],
}


def run(command: str, limit: str = "", **variables: str) -> str:
    """The one line with which a command ends; `limit` is given to ``ulimit`` before."""
    whole = [sys.executable, "-m", f"svdjax.{command}", *COMMANDS[command]]
    done = subprocess.run(
        ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", *whole] if limit else whole,
        cwd=ROOT,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"python -m svdjax.{command}: ")
    assert len(line) < 2000
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_a_limit_on_memory_is_looked_at_before_anything_is_loaded(command):
    # With so much OpenBLAS waits for more, for ever.
    assert "ulimit -v: a limit of 500 MB" in run(command, "-v 488282")


def test_a_limit_on_data_counts_too():
    assert "ulimit -d" in run("construct", "-d 400000")


def test_memory_that_runs_out_later_is_one_line_too():
    for text in ("MemoryError('x')", "OSError(12, 'Cannot allocate memory')"):
        code = (
            "import sys\nfrom svdjax import cli\n"
            f"def main(): raise {text}\n"
            "sys.argv = ['x']; cli.run(main)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
        assert "out of memory" in done.stderr
    assert is_memory_fault(RuntimeError("can't start new thread"))
    assert not is_memory_fault(OSError(errno.ENOSPC, "full"))
    assert not is_memory_fault(RuntimeError("other"))


@pytest.mark.parametrize("command", COMMANDS)
def test_devices_that_are_not_there(command):
    assert "JAX_PLATFORMS=abacus" in run(command, JAX_PLATFORMS="abacus")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("JAX_DEBUG_NANS", "1"),
        ("JAX_DEBUG_INFS", "true"),
        ("JAX_DISABLE_JIT", "1"),
        ("JAX_NO_TRACING", "1"),
        ("JAX_ENABLE_X64", "perhaps"),
        ("JAX_NUM_CPU_DEVICES", "many"),
        ("JAX_TRANSFER_GUARD", "x"),
        ("JAX_COMPILATION_CACHE_MAX_SIZE", "2 GB"),
        ("XLA_FLAGS", "--xla_of_nobody=1"),
        ("XLA_FLAGS", "nonsense"),
    ],
)
def test_variables_that_cannot_be_used_are_named(name, value):
    assert f"{name}={value}: " in run("sweep", **{name: value})
