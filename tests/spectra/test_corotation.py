"""Planted changes of a real trained model, told by the co-rotation share through `compare`."""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
from safetensors.numpy import save_file

import svdjax
from svdjax.spectra.corotation_findings import corotation_lead
from svdjax.spectra.results import Comparison
from tests.support import tiny

SIZE = 0.02
"""Of a change, relative to the matrix or in radians per entry: well within first order."""


def turned(w: np.ndarray, rng: np.random.Generator, sense: int) -> np.ndarray:
    """U S V^T with U turned by a small rotation and V by the same one, or by its inverse."""
    u, s, vt = np.linalg.svd(w, full_matrices=False)
    a = rng.standard_normal((len(s), len(s)))
    rotation = scipy.linalg.expm(SIZE * (a - a.T) / 2)
    other = rotation if sense > 0 else rotation.T
    return (u @ rotation * s) @ (vt.T @ other).T


def noisy(w: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """W and Gaussian noise of `SIZE` of its norm."""
    noise = rng.standard_normal(w.shape)
    return w + SIZE * np.linalg.norm(w) / np.linalg.norm(noise) * noise


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "together": lambda w, rng: turned(w, rng, 1),
    "apart": lambda w, rng: turned(w, rng, -1),
    "noise": noisy,
    "scaled": lambda w, rng: 2 * w,
}


@pytest.fixture(scope="module")
def compared(shared: pathlib.Path, tmp_path_factory) -> dict[str, Comparison]:
    """stories260k against posts of it that were changed in every linear layer."""
    base = shared / "checkpoints" / "stories260k"
    tensors = tiny.read_tensors(base)
    folder = tmp_path_factory.mktemp("stories")
    made = {}
    for name, change in CHANGES.items():
        post, rng = folder / name, np.random.default_rng(7)
        shutil.copytree(base, post)
        changed = {
            key: change(value.astype(np.float64), rng).astype(np.float32)
            if key.endswith("_proj.weight")
            else value
            for key, value in tensors.items()
        }
        save_file(changed, post / "model.safetensors", metadata={"format": "pt"})
        made[name] = svdjax.compare(base, post, measure="vectors")
    return made


def pooled(comparison: Comparison) -> dict[str, tuple[float, float]]:
    """Share and corrected p of every projection."""
    p = comparison.corotation_p
    return {
        name: (one.corotation_pooled.share, p[name]) for name, one in comparison.projections.items()
    }


def test_a_common_rotation_is_told(compared):
    for share, p in pooled(compared["together"]).values():
        assert share > 0.999  # but for rounding to float32, exactly 1
        assert p < 1e-12  # k and v have 32 directions, and |z| is at most the root of their pairs
    assert "both sides turned by one rotation" in corotation_lead(compared["together"])


def test_opposite_rotations_are_told(compared):
    for share, p in pooled(compared["apart"]).values():
        assert share < 0.1  # of the order of the squared angle
        assert p < 1e-12
    assert "they turned apart: against each other" in corotation_lead(compared["apart"])


def test_noise_has_no_relation(compared):
    comparison = compared["noise"]
    for name, (share, p) in pooled(comparison).items():
        assert abs(comparison[name].corotation_pooled.z) < 4
        assert abs(share - 0.5) < 0.05
        assert p > 0.01
    assert "no relation beyond what the magnitudes" in corotation_lead(comparison)


def test_of_a_scaling_nothing_is_said(compared):
    comparison = compared["scaled"]
    for one in comparison.projections.values():
        # Exact in float32: nothing is left to turn.
        np.testing.assert_allclose(one.alpha_ls, 2, rtol=1e-12)
        assert np.isnan(one.corotation).all()
    assert corotation_lead(comparison) == ""
