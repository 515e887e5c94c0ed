"""Low-rank checkpoints as they are stored: the rank that was there, and numbers of that."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import svdjax
from svdjax import reference
from svdjax.checkpoint import open_checkpoint
from svdjax.spectra.findings import findings, lead, projection_lines
from svdjax.spectra.results import Comparison
from svdjax.spectra.tables import pair_tables
from svdjax.spectra.views import every_layer, pair_views
from svdjax.spectral import storage

FORMATS = ("bf16", "f32")
ROUNDED = {"bf16": 2.0**-8, "f32": 2.0**-24}


@pytest.fixture(scope="module")
def models(shared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Checkpoints of rank 8 of 64 in every projection, and with 2 % of noise added."""
    folder = tmp_path_factory.mktemp("storage")
    script = shared / "cases" / "case_19_storage_rank.py"
    subprocess.run([sys.executable, script, folder], check=True, cwd=script.parent)
    return folder


@pytest.fixture(scope="module")
def compared(models: pathlib.Path) -> dict[str, Comparison]:
    return {
        name: svdjax.compare(models / f"low_{name}", models / f"low_post_{name}", measure="vectors")
        for name in FORMATS
    }


@pytest.mark.parametrize("name", FORMATS)
def test_low_rank_is_told(compared: dict[str, Comparison], name: str) -> None:
    entries = compared[name].summary()["projections"]
    for key, one in compared[name].projections.items():
        m, entry = one.metrics, entries[key]
        np.testing.assert_array_equal(m.rank_base, 64)
        np.testing.assert_array_equal(m.stored_rank_base, 8)
        assert np.all(np.asarray(m.stored_rank_post) >= 50)  # noise of 2 % is 9 times bf16's
        assert one.storage_limited.all()
        assert (entry["storage_limited_layers"], entry["stored_rank_base_min"]) == (2, 8)
        # The noise that was added is far below the 8 directions: nothing was scaled or turned.
        assert one.carried.alpha_mean == pytest.approx(1, abs=0.01)
        assert one.carried.alpha_prime == 1
        assert one.carried.nf_mean < 0.05 * one.nf_unrelated
        # What the plain numbers make of it.
        assert one.alpha_mean > 1.5
        assert one.nf_mean > 0.3 * one.nf_unrelated
        np.testing.assert_array_equal(one.carried.nf, m.nf_stored)
        assert entry["alpha_stored_mean"] == one.carried.alpha_mean
        # Rounding is relative: no entry moves by more than half a unit, no sigma by 64 of those.
        assert 0 < entry["sigma_rounding_max"] < 64 * ROUNDED[name]


@pytest.mark.parametrize("name", FORMATS)
def test_nf_is_that_of_the_leading_directions(
    compared: dict[str, Comparison], models: pathlib.Path, name: str
) -> None:
    base, post = (
        open_checkpoint(models / f"{side}_{name}").read("model.layers.1.mlp.up_proj.weight")
        for side in ("low", "low_post")
    )
    m = compared[name]["up_proj"].metrics
    (ub, _, vbt), (up, _, vpt) = (
        np.linalg.svd(np.asarray(w, np.float64).T, full_matrices=False) for w in (base, post)
    )
    k = int(np.asarray(m.stored_rank_post)[1])
    want = np.linalg.norm((ub.T @ up - vbt @ vpt.T)[:8, :k]) / np.sqrt(8 * k)
    # bf16's base has a condition number of 1e4: its vectors come from a Gram matrix.
    assert np.asarray(m.nf_stored)[1] == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("name", FORMATS)
def test_pages_say_it(compared: dict[str, Comparison], name: str) -> None:
    one = compared[name]
    note = f"rank 8 of 64 in what {name} can carry"
    assert note in lead(one)
    assert "14 of 14 matrices" in lead(one)
    assert "turned about as independently" not in lead(one)
    (sentence,) = [line for line in findings(one, None) if line.startswith("Storage:")]
    assert note in sentence
    assert f"{max(p.alpha_mean for p in one.projections.values()):.4f}" in sentence
    for _, line in projection_lines(one):
        assert line.endswith(f"Storage limits it: {note}.")
    tables = pair_tables(one, None)
    views = [*pair_views(tables, None), every_layer(tables["layers"])]
    heads = {head.label for view in views for head in view.heads}
    assert {"NF carried by storage", "factor carried by storage", "stored rank base"} <= heads


def test_subnormal_numbers_are_no_rank(models: pathlib.Path) -> None:
    got = svdjax.compare(models / "bf16_sub", models / "bf16_sub", measure="vectors")
    for one in got.projections.values():
        assert np.isnan(np.asarray(one.metrics.nf_stored)).all()
        assert not one.storage_limited.any()  # zeros for everyone, not hidden by rounding
    assert "can carry" not in lead(got)


@pytest.mark.parametrize("name", reference.NAMES)
def test_trained_models_are_carried_whole(name: str) -> None:
    checkpoint = open_checkpoint(reference.path(name))
    count = 0
    for tensor in checkpoint.names:
        if not tensor.endswith("_proj.weight"):
            continue
        w = checkpoint.read(tensor)
        s = jnp.asarray(np.linalg.svd(np.asarray(w, np.float64), compute_uv=False))
        shape = (w.shape[0], w.shape[1])
        rms = storage.rounding_rms(jnp.linalg.norm(s), shape, w.dtype)
        rank = int(storage.stored_rank(s, rms, shape, storage.eps_of(w.dtype)))
        assert len(s) - rank <= 1
        count += 1
    assert count == 35
