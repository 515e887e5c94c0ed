"""What several pairs share, two processes factorise once between them; here they are threads."""

from __future__ import annotations

import socket

import numpy as np
import pytest

from svdjax.engine.hosts.request import HostsRequest
from svdjax.errors import InputError
from svdjax.options import default_config
from svdjax.sweep.run import run_sweep
from tests.engine.hosts.models import family, save, tensors
from tests.engine.hosts.threads import side_by_side
from tests.sweep import harness

PAIRS = ("one", "two")


@pytest.fixture
def models(tmp_path):
    """A base and two posts."""
    return family(tmp_path, PAIRS, layers=4, width=16)


def config(models):
    """One base with two posts, a group of two layers at a time."""
    sides = {post: {"base": str(models / "base"), "post": str(models / post)} for post in PAIRS}
    return default_config("x", sides, stages=("spectra",), group_bytes=1)


def together(models, workdir):
    """Runs two processes; returns their outcomes, or what they raised."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]

    def one(index: int):
        hosts = HostsRequest("localhost", port, 2, index, 30.0)
        return run_sweep(config(models), workdir, hosts=hosts)

    return side_by_side(2, one, seconds=60)


def test_a_shared_base(models, tmp_path):
    first, second = together(models, tmp_path / "two")
    alone = run_sweep(config(models), tmp_path / "one-process")
    assert (first.computed, second.computed) == (alone.computed, alone.computed // 2)
    assert second.summary() == ""
    for pair in PAIRS:
        found, wanted = (harness.spectra(w, pair) for w in (tmp_path / "two", alone.workdir))
        assert set(found) == set(wanted)
        for key, value in wanted.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
    assert harness.leftovers(tmp_path / "two") == []
    assert not (tmp_path / "two" / ".kept").exists()
    first, second = together(models, tmp_path / "two")
    assert first.was_finished
    assert second.was_finished


def test_nan_in_the_share_of_one_is_refused_before_anything_is_written(models, tmp_path):
    bad = tensors(layers=4, width=16)
    bad["layers.3.up.weight"][0, 0] = np.nan
    save(models / "two", bad)
    for error in together(models, tmp_path / "W"):
        assert isinstance(error, InputError), error
        assert "layers.3.up.weight" in str(error)
    assert not (tmp_path / "W").exists()
