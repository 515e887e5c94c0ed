"""The study of middle-k against top-k: starts, places of a change, corrected comparisons, a run."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from svdjax import reference
from svdjax.model import forward
from svdjax.spectral import working_precision
from svdjax.spectral.components import split_stack, start_of
from tools.reference.family import read_model
from tools.studies import (
    middle_k,
    middle_k_arms,
    middle_k_changes,
    middle_k_figures,
    middle_k_plan,
    middle_k_training,
)
from tools.studies.middle_k_training import Task

RANK = 3


@pytest.fixture(scope="module")
def base() -> dict[str, np.ndarray]:
    return middle_k_arms.kernels(middle_k_arms.base()[0])


@pytest.mark.parametrize("name", middle_k_arms.ARMS)
def test_every_arm_starts_as_base(name: str, base: dict[str, np.ndarray]):
    arm = middle_k_arms.ARMS[name]
    model = middle_k_arms.merged(*middle_k_arms.start(arm, RANK, 1))
    for matrix, w in middle_k_arms.kernels(model).items():
        # Two roundings to float32 of entries below the largest one.
        np.testing.assert_allclose(w, base[matrix], atol=4e-7 * np.abs(base[matrix]).max())


@pytest.mark.parametrize("place", ["top", "middle", "bottom"])
def test_pissa_takes_the_components_out_as_construct_does(place: str, base: dict[str, np.ndarray]):
    arm = middle_k_arms.ARMS[f"pissa_{place}"]
    frozen, adapters = middle_k_arms.start(arm, RANK, 1)
    w = base["k_proj"]
    with working_precision("svd_f64"):
        split = split_stack(w, start=start_of(place, RANK, 64), rank=RANK)
    kernel = frozen["layers"]["self_attn"]["k_proj"]["kernel"]
    np.testing.assert_allclose(kernel, split.residual, atol=1e-6 * np.abs(w).max())
    expected = np.asarray(split.a, float) @ np.asarray(split.b, float)
    a, b = adapters["k_proj"]["a"], adapters["k_proj"]["b"]
    np.testing.assert_allclose(a.astype(float) @ b, expected, atol=1e-6 * np.abs(w).max())


def test_random_components_are_other_ones_in_every_seed_and_layer():
    arm = middle_k_arms.ARMS["pissa_random"]
    first, second = (middle_k_arms.directions(arm, RANK, seed)["q_proj"]["s"] for seed in (1, 2))
    assert not np.array_equal(first, second)
    values = np.asarray(middle_k_arms.frames()["q_proj"].s)
    assert all(set(row) <= set(layer) for row, layer in zip(first, values, strict=True))
    assert all(len(set(row)) == RANK for row in first)


def test_top_scale_changes_the_values_and_not_the_directions():
    scaled, own = (
        middle_k_arms.directions(middle_k_arms.ARMS[f"pissa_middle{end}"], RANK, 1)["up_proj"]
        for end in ("_scaled", "")
    )
    np.testing.assert_array_equal(scaled["u"], own["u"])
    np.testing.assert_array_equal(scaled["s"], middle_k_arms.frames()["up_proj"].s[:, :RANK])


def test_thirds_find_a_change_where_it_was_put(base: dict[str, np.ndarray]):
    change = {name: np.zeros_like(w) for name, w in base.items()}
    # numpy's own factors: 64 components are 22, 21 and 21; 128 are 43, 43 and 42.
    u, _, vt = np.linalg.svd(base["k_proj"][2])
    change["k_proj"][2] = 3 * np.outer(u[:, 21], vt[21]) + 4 * np.outer(u[:, 63], vt[22])
    shares = middle_k_changes.thirds(change)
    # 9 of 25 in the top third; of the other 16 half in the bottom, half in the middle one.
    expected = {"top": 9 / 25, "middle": 8 / 25, "bottom": 8 / 25, "outside": 0}
    assert shares == pytest.approx(expected, abs=1e-9)
    # Left singular directions beyond the 64 have no component: half of this one is outside.
    change["k_proj"][2] = np.outer(u[:, 100], vt[0])
    assert middle_k_changes.thirds(change) == pytest.approx(
        {"top": 0.5, "middle": 0, "bottom": 0, "outside": 0.5}, abs=1e-9
    )


def test_random_changes_lie_evenly(base: dict[str, np.ndarray]):
    rng = np.random.default_rng(0)
    change = {name: rng.normal(size=w.shape) for name, w in base.items()}
    # 850,000 entries: shares vary by less than 1e-3.
    assert middle_k_changes.thirds(change) == pytest.approx(middle_k_changes.evenly(), abs=4e-3)


def test_a_start_moves_as_the_first_step_down_a_gradient_does():
    rng = np.random.default_rng(1)
    u, v = rng.normal(size=(2, 7, 3)), rng.normal(size=(2, 5, 3))
    s, gradient = rng.uniform(1, 2, (2, 3)), rng.normal(size=(2, 7, 5))
    a, b = u * np.sqrt(s)[:, None], np.swapaxes(v * np.sqrt(s)[:, None], 1, 2)
    h = 1e-6
    moved = (a + h * gradient @ np.swapaxes(b, 1, 2)) @ (b + h * np.swapaxes(a, 1, 2) @ gradient)
    parts: Any = {"x": {"u": u, "s": s, "v": v}}
    found = middle_k_changes.projected({"x": gradient}, parts)["x"]
    # What is left out is of the order of h times the square of the gradient.
    np.testing.assert_allclose(found, (moved - a @ b) / h, rtol=1e-3, atol=1e-3)
    # B zero: nothing moves A.
    found = middle_k_changes.projected({"x": gradient}, {"x": {"u": u}})["x"]
    np.testing.assert_allclose(found, u @ (np.swapaxes(u, 1, 2) @ gradient), rtol=1e-12)


def test_inside_is_what_the_directions_of_the_start_hold():
    frame = np.eye(4)[None]
    parts: Any = {"x": {"u": frame[:, :, :1], "v": frame[:, :, :1]}}
    change = np.arange(16.0).reshape(1, 4, 4)
    # The 3 x 3 block is neither.
    expected = 1 - np.sum(change[0, 1:, 1:] ** 2) / np.sum(change**2)
    assert middle_k_changes.inside({"x": change}, parts) == pytest.approx(expected)
    left: Any = {"x": {"u": frame[:, :, :1]}}
    expected = np.sum(change[0, 0] ** 2) / np.sum(change**2)
    assert middle_k_changes.inside({"x": change}, left) == pytest.approx(expected)


def test_heldout_scores_are_those_of_numpy():
    params, config, tokenizer = read_model(reference.path("instruct"))
    task = Task("instruct", steps=1, rows=6, warmup=1, batches=2, questions=1, new_tokens=1)
    recipe = task.recipe(0)
    # Noise, so that some solutions are foreseen and others are not.
    rng = np.random.default_rng(2)
    noisy = jax.tree.map(
        lambda x: x + np.float32(0.02) * rng.standard_normal(x.shape, np.float32), params
    )
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):  # As the study's command.
        found = middle_k_training.heldout(noisy, recipe, task.batches, 7)
    losses, right, foreseen = [], [], []
    for tokens, weights in (recipe.batch(tokenizer, number, salt=7) for number in range(2)):
        logits = np.asarray(forward(noisy, config, tokens[:, :-1]), np.float64)
        for row, targets, counted in zip(logits, tokens[:, 1:], weights == 1, strict=True):
            scores, targets = row[counted], targets[counted]
            largest = scores.max(-1, keepdims=True)
            total = np.log(np.exp(scores - largest).sum(-1)) + largest[:, 0]
            losses += list(total - scores[np.arange(len(targets)), targets])
            hits = scores.argmax(-1) == targets
            right += list(hits)
            foreseen.append(hits.all())
    expected = {
        "loss": np.mean(losses),
        "tokens": np.mean(right),
        "exchanges": np.mean(foreseen),
    }
    # Sums of some hundred losses in float32.
    assert found == pytest.approx(expected, rel=1e-5)


def test_corrected_comparisons_are_the_textbook_ones():
    assert middle_k_figures.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx(
        [0.03, 0.06, 0.06, 0.02]
    )
    assert middle_k_figures.holm([0.9, 0.8]) == [1.0, 1.0]
    runs = [
        {"loss": loss, "curve": [2.0, 1.0], "accuracy": 0.5, "base_loss": 1.0}
        | {"tokens": 0.5, "exchanges": 0.5}
        for loss in (1.0, 2.0, 4.0)
    ]
    lower = [run | {"loss": run["loss"] - 1 - place / 10} for place, run in enumerate(runs)]
    told = middle_k_figures.contrast(lower, runs)
    assert told["loss"]["mean"] == pytest.approx(-1.1)
    # t = 1.1 / (0.1 / sqrt(3)) = 19.05 on 2 degrees of freedom: p = 1 - t / sqrt(t^2 + 2)
    t = 1.1 / (0.1 / np.sqrt(3))
    assert told["p"] == pytest.approx(1 - t / np.sqrt(t**2 + 2))
    assert middle_k_figures.early([3.0, 2.0, 1.0, 0.0]) == 2.5


def test_the_grid_is_widened_where_the_best_rate_is_at_its_end():
    assert middle_k_plan.wider({0.004: 1.0, 0.002: 1.2}) == [0.008]
    assert middle_k_plan.wider({0.004: 1.2, 0.002: 1.0}) == [0.001]
    assert middle_k_plan.wider({0.004: 1.2, 0.002: 1.0, 0.001: 1.1}) == []


def test_a_finer_grid_is_judged_by_a_parabola():
    rates = [0.002 * 3**x for x in (-1, 0, 1)]
    losses = {rate: 1 + 0.5 * (np.log(rate / 0.0025) / np.log(3)) ** 2 for rate in rates}
    assert middle_k_figures.finer(losses) == pytest.approx(min(losses.values()) - 1)
    assert middle_k_figures.finer({0.1: 1.0, 0.2: 2.0}) == 0


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("middle_k")
    # optax itself relies on promotion; the study's command has no 64-bit types.
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        record = middle_k.STUDY.perform(folder, folder / "work", quick=True)
    assert {path.name for path in folder.glob("*.svg")} == {
        "middle_k.svg",
        "middle_k_behind.svg",
    }
    return record["figures"]


def test_the_study_in_small(figures: dict[str, Any]):
    told = figures["tasks"]["instruct"]
    assert set(told["arms"]) == {"lora", "lora_again", "pissa_top", "pissa_middle"}
    for name, arm in told["arms"].items():
        assert sum(share["mean"] for share in arm["thirds"].values()) == pytest.approx(1, abs=1e-3)
        # Three steps: the change is where the start puts it, and base is nearly what it was.
        assert arm["inside"]["mean"] > 0.9
        assert 0 < arm["relative"]["mean"] < 0.5, name
        assert arm["loss"]["mean"] < told["before"]["loss"]
        assert len(middle_k_figures.points(arm["curve"])) == 3
    # The first batch is every arm's, and every arm starts as base.
    first = [middle_k_figures.points(arm["curve"])[0]["mean"] for arm in told["arms"].values()]
    assert first == pytest.approx([first[0]] * 4, rel=1e-3)
    contrasts = figures["contrasts"]
    assert contrasts["number"] == 3
    assert "holm" not in contrasts["instruct"]["lora_again-lora"]
    assert set(middle_k_figures.points(told["arms"]["lora"]["behind"])[0].values()) == {0.0}
