"""What several pairs share, two processes factorise once between them; here they are threads."""

from __future__ import annotations

import json
import socket
import threading

import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.engine import run_sweep
from svdjax.engine.hosts import HostsRequest
from svdjax.errors import InputError
from svdjax.options import default_config
from tests.engine import harness

PAIRS = ("one", "two")


@pytest.fixture
def models(tmp_path):
    """A base and two posts of no known architecture: four layers of two shapes."""
    rng = np.random.default_rng(0)
    shapes = {"up.weight": (48, 16), "down.weight": (16, 16)}
    base = {
        f"layers.{layer}.{name}": rng.standard_normal(shape)
        for layer in range(4)
        for name, shape in shapes.items()
    }
    for side in ("base", *PAIRS):
        (tmp_path / side).mkdir()
        moved = {
            name: value + (side != "base") * 0.01 * rng.standard_normal(value.shape)
            for name, value in base.items()
        }
        stored = {name: value.astype(np.float32) for name, value in moved.items()}
        save_file(stored, tmp_path / side / "model.safetensors", {"format": "pt"})
        (tmp_path / side / "config.json").write_text(json.dumps({"model_type": "novel"}))
    return tmp_path


def config(models):
    """One base with two posts, a group of two layers at a time."""
    sides = {post: {"base": str(models / "base"), "post": str(models / post)} for post in PAIRS}
    return default_config("x", sides, stages=("spectra",), group_bytes=1)


def together(models, workdir):
    """Runs two processes; returns their outcomes, or what they raised."""
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    done: list = [None, None]

    def one(index: int) -> None:
        hosts = HostsRequest("localhost", port, 2, index, 30.0)
        try:
            done[index] = run_sweep(config(models), workdir, hosts=hosts)
        except BaseException as error:
            done[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return done


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
    assert not (tmp_path / "two" / ".halves").exists()


def test_nan_in_the_share_of_one_is_refused_before_anything_is_written(models, tmp_path):
    file = models / "two" / "model.safetensors"
    rng = np.random.default_rng(1)
    bad = {
        f"layers.{layer}.{name}": rng.standard_normal(shape).astype(np.float32)
        for layer in range(4)
        for name, shape in (("up.weight", (48, 16)), ("down.weight", (16, 16)))
    }
    bad["layers.3.up.weight"][0, 0] = np.nan
    save_file(bad, file, {"format": "pt"})
    for error in together(models, tmp_path / "W"):
        assert isinstance(error, InputError), error
        assert "layers.3.up.weight" in str(error)
    assert not (tmp_path / "W").exists()
