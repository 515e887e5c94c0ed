"""What is computed once, how often is compiled, what is left behind: sweeps in this process."""

from __future__ import annotations

import json
import pathlib
import re
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.errors import InputError
from svdjax.options import default_config
from svdjax.spectra.compute import in_parts
from svdjax.spectral import kernels
from svdjax.sweep.run import run_sweep
from tests.spectral import matrices, reference

SHAPES = {"up.weight": (48, 16), "down.weight": (16, 16)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and two posts of no known architecture: three layers of two shapes."""
    root, rng = tmp_path_factory.mktemp("models"), np.random.default_rng(0)
    tensors = {
        f"layers.{layer}.{name}": rng.standard_normal(shape).astype(np.float32)
        for layer in range(3)
        for name, shape in SHAPES.items()
    }
    for side in ("base", "one", "two"):
        (root / side).mkdir()
        moved = {
            name: value + (side != "base") * 0.01 * rng.standard_normal(value.shape)
            for name, value in tensors.items()
        }
        moved = {name: value.astype(np.float32) for name, value in moved.items()}
        save_file(moved, root / side / "model.safetensors", {"format": "pt"})
        (root / side / "config.json").write_text(json.dumps({"model_type": "novel"}))
    return root


def sweep(models, workdir, pairs, **leaves):
    sides = {f"{b}-{p}": {"base": str(models / b), "post": str(models / p)} for b, p in pairs}
    leaves = {"measure": "vectors", **leaves}
    return run_sweep(default_config("x", sides, stages=("spectra",), **leaves), workdir)


def compiled(kernel: Any) -> int:
    """How many programs a kernel has been compiled to."""
    return kernel._cache_size()


def arrays(workdir, pair):
    found = {}
    for file in ("spectra.npz", "vectors.npz"):
        found |= dict(np.load(workdir / pair / file))
    return found


def test_what_several_pairs_share_is_computed_once(models, tmp_path):
    pairs = [("base", "one"), ("base", "two"), ("one", "two")]
    kernel: Any = kernels._prepare.program
    kernel.clear_cache()
    sweep(models, tmp_path / "all", pairs)
    assert compiled(kernel) > 0
    assert not (tmp_path / "all" / ".kept").exists()
    for pair in pairs:
        sweep(models, tmp_path / "-".join(pair), [pair])
        name = "-".join(pair)
        alone = arrays(tmp_path / name, name)
        for key, value in arrays(tmp_path / "all", name).items():
            # Two programs round differently, and condition numbers are about 10.
            np.testing.assert_allclose(value, alone[key], rtol=0, atol=1e-11, err_msg=key)


def test_a_named_cache_keeps_them_by_content(models, tmp_path):
    cache = tmp_path / "cache"
    sweep(models, tmp_path / "first", [("base", "one")], factor_cache=str(cache))
    kept = {path: path.stat().st_ctime_ns for path in cache.glob("svdjax-*")}
    assert len(kept) == 2 * len(SHAPES)  # both sides, three layers a group
    sweep(models, tmp_path / "again", [("one", "base")], factor_cache=str(cache))
    assert len(list(cache.glob("svdjax-*"))) == len(kept)


@pytest.mark.parametrize("measure", ["vectors", "fits"])
def test_matrices_that_need_their_factors_get_them(measure, tmp_path):
    rng, kappas = np.random.default_rng(1), (1e1, 1e7, 1e8, 1e2)
    weights = {"base": [], "one": [], "two": []}
    for kappa in kappas:
        base, one = matrices.pair(rng, (48, 16), kappa)
        weights["base"].append(base)
        weights["one"].append(one)
        weights["two"].append(one @ (np.eye(16) + 0.01 * rng.standard_normal((16, 16))))
    for side, stack in weights.items():
        (tmp_path / side).mkdir()
        # safetensors stores [out, in].
        tensors = {f"layers.{k}.up.weight": np.ascontiguousarray(w.T) for k, w in enumerate(stack)}
        save_file(tensors, tmp_path / side / "model.safetensors", {"format": "pt"})
        (tmp_path / side / "config.json").write_text(json.dumps({"model_type": "novel"}))
    pairs = [("base", "one"), ("base", "two")]
    sweep(tmp_path, tmp_path / "W", pairs, measure=measure, corner=8)
    for base, post in pairs:
        found = arrays(tmp_path / "W", f"{base}-{post}")
        route, nf, error = (
            found[f"layers.*.up.weight/{name}"] for name in ("route", "nf", "nf_error")
        )
        assert list(route) == [kappa < 1e5 for kappa in kappas]
        want = [reference.pair(*two)["nf"] for two in zip(weights[base], weights[post])]
        # numpy's SVD errs by eps kappa itself.
        assert np.all(np.abs(nf - want) <= error + 2 * np.finfo(float).eps * np.array(kappas))


def test_each_shape_is_compiled_once(models, tmp_path):
    # One layer a group on each device, and the last group is filled up: still one program.
    before = compiled(kernels._analyse.program)
    sweep(models, tmp_path / "W", [("base", "one")], group_bytes=1, corner=7)
    assert compiled(kernels._analyse.program) - before == len(SHAPES)
    sweep(models, tmp_path / "W2", [("base", "two")], group_bytes=1, corner=7)
    assert compiled(kernels._analyse.program) - before == len(SHAPES)


def test_twenty_sweeps_leave_nothing_behind(models, tmp_path):
    def resident() -> int:
        status = pathlib.Path("/proc/self/status").read_text(encoding="ascii")
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1])  # type: ignore[index]

    def go(count):
        for _ in range(count):
            sweep(models, tmp_path / f"W{len(list(tmp_path.iterdir()))}", [("base", "one")])
        return len(list(pathlib.Path("/proc/self/fd").iterdir())), resident()

    files, memory = go(5)
    files_after, memory_after = go(20)
    assert files_after <= files
    # A sweep of these holds some 100 kB of arrays: what leaked would be 2 MB. Allocators keep more.
    assert memory_after - memory < 30_000


def test_what_has_no_room_is_halved_and_tried_again():
    calls = []

    # No device here can be made to run out of memory, so this is jax's error from a stand-in.
    def run(stacks):
        calls.append(len(stacks["w"]))
        if len(stacks["w"]) > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return {"w": 2 * np.asarray(stacks["w"])}

    stack = {"w": np.arange(10.0).reshape(10, 1)}
    got = in_parts(run, stack, 1, "q_proj[0:10]")
    np.testing.assert_array_equal(got["w"], 2 * stack["w"])
    assert max(calls[1:]) <= 5
    with pytest.raises(InputError, match=r"q_proj\[0:10\]: one matrix pair"):
        in_parts(run, stack, 4, "q_proj[0:10]")

    def broken(_):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        in_parts(broken, stack, 1, "x")
