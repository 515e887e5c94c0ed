"""The study of what restorations and ablations measure, in small, and the numbers it rests on."""

from __future__ import annotations

import contextlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from svdjax.spectral import predicted_surviving
from tests.spectral import reference
from tools.reference.training import make_step, optimiser
from tools.studies import (
    matrices,
    survival,
    survival_averages,
    survival_law,
    survival_models,
    survival_planted,
)
from tools.studies.survival_edits import Pair

SHAPES = ((12, 12), (12, 20), (20, 12))
SIDES = {"V": "eq11", "U": "eq16"}


@contextlib.contextmanager
def as_commands():
    """As commands compute: with dtypes promoted, which optax counts on, and 64-bit types off."""
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.enable_x64(False),
    ):
        yield


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("survival")
    with as_commands():
        found = survival.STUDY.perform(folder / "out", folder / "work", quick=True)
    assert (folder / "out/survival.svg").is_file()
    return found


def test_a_quick_run_has_the_shape_of_the_page(record):
    figures = record["figures"]
    assert set(figures["cells"]) == {"16/0", "16/1"}
    # The larger learning rate moves farther.
    assert figures["cells"]["16/0"]["size"]["high"] < figures["cells"]["16/1"]["size"]["low"]
    assert set(figures["projections"]["16"]) == set(matrices.PROJECTIONS)
    assert len(figures["ladder"]["16"]["gaussian"]) == len(survival.QUICK.ladder)


def test_planted_changes_are_told_apart(record):
    for cell in record["figures"]["planted"].values():
        # A restoration of a common rotation gives the same matrix, up to float32.
        assert cell["rotation"]["sum"]["mean"] == pytest.approx(2, abs=1e-3)
        assert cell["rotation"]["kl"] < 0.01 * cell["rotation"]["reverted"]
        assert cell["opposite"]["sum"]["high"] < 0.5
        # Of matrices of order 16 a share differs by some hundredths from draw to draw.
        assert cell["gaussian"]["sum"]["mean"] == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("shape", SHAPES)
def test_first_order_is_what_restorations_leave_of_a_small_change(shape: tuple[int, int]):
    rng = np.random.default_rng(1)
    base = rng.standard_normal((2, *shape))
    # A change of 1e-5 leaves terms of second order of about that size.
    post = base + 1e-5 * rng.standard_normal(base.shape)
    told = survival_law.first_order(base, post)
    for side, name in SIDES.items():
        for layer in range(2):
            new = reference.constructed(name, base[layer], post[layer])
            left = reference.surviving(new, base[layer], post[layer])
            assert told[side][layer] == pytest.approx(left, abs=1e-3)
    both = told["V"] + told["U"]
    np.testing.assert_allclose(both, 1 + told["diagonal"] + told["rotation"], atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_planted_changes_have_the_size_and_the_truth_asked_for(shape: tuple[int, int]):
    base = np.random.default_rng(2).standard_normal((2, *shape)).astype(np.float32)
    size = 0.1 * np.linalg.norm(base, axis=(1, 2))
    for sign, truth in ((1, 1.0), (-1, -1.0)):
        post = survival_planted.rotated(base, size, np.random.default_rng(3), sign=sign)
        # float32 has 7 digits.
        np.testing.assert_allclose(np.linalg.norm(post - base, axis=(1, 2)), size, rtol=1e-4)
        told = survival_law.first_order(base, post)
        # Whose diagonal is of second order for opposite rotations, and part of it for common ones.
        np.testing.assert_allclose(told["rotation"] + told["diagonal"], truth, atol=0.1)
    noisy = survival_planted.gaussian(base, size, np.random.default_rng(3))
    np.testing.assert_allclose(np.linalg.norm(noisy - base, axis=(1, 2)), size, rtol=1e-4)


def test_a_rotation_is_that_of_a_matrix_exponential():
    base = np.random.default_rng(4).standard_normal((1, 8, 8)).astype(np.float32)
    post = survival_planted.rotated(base, np.array([0.5]), np.random.default_rng(5))[0]
    u, s, v = reference.svd(base[0])
    skew = np.random.default_rng(5).standard_normal((8, 8))
    skew = skew - skew.T
    skew /= np.linalg.norm(skew, 2)
    distances = []
    for t in np.linspace(0, 1.5, 301):
        q = scipy.linalg.expm(t * skew)
        distances.append(np.linalg.norm((u @ q) @ np.diag(s) @ (v @ q).T - post))
    # The grid is 0.005 wide, and the largest singular value about 5.
    assert min(distances) < 0.02 * np.linalg.norm(post)


def test_as_much_of_a_change_is_kept_as_asked():
    rng = np.random.default_rng(6)
    base, post = (_tree(rng.standard_normal((2, 6, 9)).astype(np.float32)) for _ in range(2))
    pair = Pair(base, post, 0)
    path = "layers/self_attn/q_proj/kernel"
    kept = pair.keep_share({path: np.array([0.25, 0.75])})
    matrices = zip(*pair.stacks(path), kept.new[path], (0.25, 0.75))
    for w, end, new, share in matrices:
        assert reference.surviving(new, w, end) == pytest.approx(share, abs=1e-6)
        assert np.linalg.norm(new - end) < np.linalg.norm(end - w)
    assert pair.told(kept)["share"] == pytest.approx(
        np.average([0.25, 0.75], weights=_squares(*pair.stacks(path))), abs=1e-6
    )


def test_restorations_are_those_of_the_equations():
    rng = np.random.default_rng(7)
    base, post = (_tree(rng.standard_normal((2, 6, 9)).astype(np.float32)) for _ in range(2))
    pair = Pair(base, post, 0)
    path = "layers/self_attn/q_proj/kernel"
    for name in SIDES.values():
        edit = pair.construct(name, "self_attn")
        for w, end, new, change, share in zip(
            *pair.stacks(path), edit.new[path], edit.change[path], edit.share[path]
        ):
            expected = reference.constructed(name, w, end)
            np.testing.assert_allclose(new, expected, atol=1e-5)
            assert change == pytest.approx(np.linalg.norm(expected - end), rel=1e-5)
            assert share == pytest.approx(reference.surviving(expected, w, end), abs=1e-5)
        law = predicted_surviving(name, (6, 9))
        assert pair.law(name, "self_attn") == pytest.approx(law)
        half = pair.part(edit, 0.5).new[path]
        np.testing.assert_allclose(half, (edit.new[path] + pair.stacks(path)[1]) / 2, atol=1e-6)


@as_commands()
def test_fine_tuning_is_that_of_the_reference_family(tmp_path: pathlib.Path):
    training = survival_models.Training(layers=1, base_steps=1, steps=3, rows=1)
    parent = survival_models.base(training, 16, tmp_path)
    found = survival_models.tuned(training, parent, 3e-3, 1).params
    recipe = survival_models.tuning_recipe(training, 3e-3, 1)
    step = make_step(recipe, parent.config)
    params = jax.tree.map(jnp.array, parent.params)
    state = {"params": params, "moments": optimiser(recipe).init(params)}
    for number in range(training.steps):
        state, _ = step(state, *recipe.batch(parent.tokenizer, number))
    # Steps of 1e-3 and float32: the rate is multiplied in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, state["params"])


def test_slopes_are_those_of_powers():
    x = np.array([0.1, 0.3, 1.0, 2.0])
    found, explained = survival_averages.slope(x, 3 * x**2)
    assert found == pytest.approx(2)
    assert explained == pytest.approx(1)
    assert survival_averages.ratio([2.0, 8.0])["mean"] == pytest.approx(4)


def _tree(w: np.ndarray) -> dict:
    return {"layers": {"self_attn": {"q_proj": {"kernel": w}}}}


def _squares(base: np.ndarray, post: np.ndarray) -> np.ndarray:
    return np.sum(survival_law.change_of(base, post) ** 2, axis=(1, 2))
