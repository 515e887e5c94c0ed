"""What the tests of several processes share: a sweep, and what one process makes of it."""

from __future__ import annotations

import pytest

from tests.engine.hosts.models import family
from tests.sweep import harness


@pytest.fixture(scope="session")
def job(env, tmp_path_factory):
    """Environment and arguments of a sweep of many small groups, and the workdir of one process."""
    models = family(tmp_path_factory.mktemp("models"), ["post"], layers=12, width=256)
    two = env | {"XLA_FLAGS": harness.flags(2)}
    arguments = [
        f"--config=configs/pair.py:base={models / 'base'},post={models / 'post'}",
        "--config.group_bytes=1",
        "--config.measure=vectors",
        "--config.factorisation=svd_f64",
        "--config.stages=('spectra',)",
        "--config.devices=0",
    ]
    workdir = tmp_path_factory.mktemp("alone") / "W"
    # This process has two devices too.
    done = harness.sweep_here(*arguments, f"--workdir={workdir}")
    assert done.status == 0, done.err
    return two, arguments, workdir, done.computed
