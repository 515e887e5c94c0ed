"""A cluster of several machines: one is killed, one cut off for a while, one joins late."""

from __future__ import annotations

import pathlib
import secrets
import threading
import time

import pytest

from tests.engine.work.machines import machines, wait_for
from tests.engine.work.outcome import EVERY_STAGE, same_files
from tests.sweep import harness

pytest.importorskip("ray")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_outlives_its_machines(env, tmp_path):
    """All stages of the reference family: as in one process, to the last bit."""
    here = harness.start(env, *EVERY_STAGE, f"--workdir={tmp_path / 'here'}")
    done = harness.finish(here, 1500)
    assert done.status == 0, done.err
    env = env | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with machines(4, env, tmp_path) as cluster:
        for number in (1, 2, 3):
            cluster.start(number)
            wait_for(tmp_path / f"machine{number}.log", "Ray runtime started", 120)
        sweep = cluster.sweep(1, *EVERY_STAGE, f"--workdir={tmp_path / 'W'}")

        def trouble() -> None:
            _when(tmp_path / "W" / ".journal")
            cluster.kill(2)
            _when(tmp_path / "W" / ".constructions")
            cluster.cable(3, "down")
            time.sleep(20)
            cluster.cable(3, "up")
            _when(tmp_path / "W" / ".evaluation")
            cluster.start(4)

        thread = threading.Thread(target=trouble, daemon=True)
        thread.start()
        done = harness.finish(sweep, 1500)
        thread.join(60)
    assert done.status == 0, done.err
    assert done.out.startswith("done: ")
    assert "on machine2 is lost" in done.err
    same_files(tmp_path / "W", tmp_path / "here")


def _when(folder: pathlib.Path) -> None:
    """Waits until something is in a journal."""
    deadline = time.monotonic() + 900
    while not any(folder.rglob("*")) and time.monotonic() < deadline:
        time.sleep(0.1)
