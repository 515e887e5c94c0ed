"""The study of reinforcement learning: in small, and its measures against numpy."""

from __future__ import annotations

import json

import jax
import ml_dtypes
import numpy as np
import pytest

from tools.studies import rl, rl_change
from tools.studies.rl_training import ARMS

RNG = np.random.default_rng(11)


@pytest.fixture(scope="module")
def performed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rl")
    # As commands compute; optax mixes dtypes.
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.enable_x64(False),
    ):
        record = rl.STUDY.perform(folder / "out", folder / "work", quick=True)
    return record["figures"], folder


def test_the_study_in_small(performed):
    figures, folder = performed
    assert json.loads((folder / "out/rl.json").read_text("utf-8"))["figures"] == figures
    assert (folder / "out/rl.svg").read_text("utf-8").startswith("<?xml")
    assert set(figures["accuracy"]) == {"start", *ARMS}
    for origin in ("base", "start"):
        change = figures["change"][origin]
        for name in ("rejection sized", "supervised sized", "noise"):
            np.testing.assert_allclose(
                change[name]["size"]["mean"], change["rl"]["size"]["mean"], rtol=1e-3
            )
        # Noise is the control of every measure: no place, no concentration, no rotation.
        noise = change["noise"]
        for third in rl_change.THIRDS:
            np.testing.assert_allclose(noise[third]["mean"], 1, atol=0.05)
        np.testing.assert_allclose(noise["largest"]["mean"], 0.0846, atol=0.003)
        np.testing.assert_allclose(noise["corotation"]["mean"], 0.5, atol=0.02)
        difference = change["rl"]["size"]["mean"] - change["rejection"]["size"]["mean"]
        against = figures["against"][origin]["rejection"]["size"]["mean"]
        # Each is kept in six digits.
        np.testing.assert_allclose(against, difference, atol=1e-7)
    assert figures["minutes"] > 0
    assert set(figures["shipped"]) == set(rl.SHIPPED)
    assert all(abs(each["mean"]) <= 1 for each in figures["cosines"].values())


def test_a_planted_change_lies_where_it_was_put():
    base = {"a": RNG.normal(size=(2, 24, 12))}
    (frame, _) = rl_change.frames(base)["a"]
    u, vt = frame
    # One direction of the top third on the left, one of the bottom third on the right.
    change = np.outer(u[:, 1], vt[10])
    np.testing.assert_allclose(
        rl_change.third_shares(frame, change),
        # 4 of 24 directions on the left, 4 of 12 on the right, the mean of both sides.
        [(24 / 4) / 2, 0, (12 / 4) / 2],
        atol=1e-12,
    )
    np.testing.assert_allclose(rl_change.stable_rank(change), 1)
    np.testing.assert_allclose(rl_change.stable_rank(np.eye(12, 24)), 12)
    wide = RNG.normal(size=(300, 100))
    values = np.linalg.svd(wide, compute_uv=False)
    np.testing.assert_allclose(rl_change.stable_rank(wide), np.sum(values**2) / values[0] ** 2)


def test_sizes_cosines_and_concentration():
    start = {"a": RNG.normal(size=(2, 8, 6)), "b": RNG.normal(size=(2, 4, 4))}
    end = {name: stack + RNG.normal(size=stack.shape) for name, stack in start.items()}
    moved = rl_change.delta(start, end)
    noise = rl_change.noise(moved, 3)
    for name, stack in moved.items():
        for one, other in zip(stack, noise[name], strict=True):
            np.testing.assert_allclose(np.sum(one**2), np.sum(other**2))
    flat = [np.concatenate([each[name].ravel() for name in start]) for each in (moved, noise)]
    expected = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
    np.testing.assert_allclose(rl_change.cosine(moved, noise), expected)
    sparse = np.zeros((20, 20))
    sparse[0, :8] = [4, 3, 2, 1, 1, 1, 1, 1]
    # 4 of 400 entries
    np.testing.assert_allclose(rl_change.largest_share(sparse), (16 + 9 + 4 + 1) / 34)


def test_unchanged_weights_are_those_that_bfloat16_stores_alike():
    start = {"a": np.array([[[1.0, 2.0], [-3.0, 0.0]]], np.float32)}
    step = float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)
    end = {"a": start["a"] + np.array([[[0.4 * step, step * 2], [0.1 * step, 1e-20]]], np.float32)}
    assert rl_change.unchanged_share(start, end) == 0.5
    assert rl_change.unchanged_share(start, start) == 1
