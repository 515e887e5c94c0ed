"""The study of linearised models in small, and its intervals against numpy."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from svdjax.probe.linearised import SUMS
from tools.studies import linearised
from tools.studies.linearised_figures import at_change, between_modules, bootstrapped, metrics


def piece(changes: list[float], errors: list[float]) -> dict:
    """Two texts, the first with a third of the sums and a quarter of the tokens."""
    sums = {name: [[1.0, 2.0] for _ in changes] for name in SUMS}
    sums["change"] = [[c / 3, 2 * c / 3] for c in changes]
    sums["error"] = [[e / 3, 2 * e / 3] for e in errors]
    return {
        "parts": ["all"] * len(changes),
        "scales": list(range(1, len(changes) + 1)),
        "tokens": [1.0, 3.0],
        "continued": [1.0, 2.0],
        "sums": sums,
    }


def test_metrics_are_ratios_of_sums_over_the_texts():
    found = metrics(piece([16.0], [4.0]), 0)
    assert found["change"] == 2
    assert found["share"] == 0.75
    # |linear|^2 = 3: the cosine of d and l from |d|^2, |l|^2 and |d - l|^2.
    np.testing.assert_allclose(found["cosine"], (16 + 3 - 4) / (2 * np.sqrt(48)))
    assert found["kl_base"] == 0.75
    assert found["right_post"] == 1
    assert found["kl_share"] == 0
    interval = bootstrapped(piece([16.0], [4.0]), 0)
    # Both texts have the same share; of their tokens they have 3 / 4 of the sums, or 1 / 3 of 16.
    assert interval["share"]["low"] == interval["share"]["high"] == 0.75
    np.testing.assert_allclose(
        [interval["change"]["low"], interval["change"]["high"]],
        [np.sqrt(16 * 2 / 3 / 3), np.sqrt(16 / 3)],
    )


def test_modules_act_on_one_another_where_their_own_errors_do_not_add_up_to_the_whole():
    parts = ["all", "self_attn", "mlp", "other"]
    held = piece([100.0, 1.0, 1.0, 1.0], [81.0, 9.0, 4.0, 1.0]) | {
        "parts": parts,
        "scales": [1] * 4,
    }
    np.testing.assert_allclose(between_modules(held), (9 - 3 - 2 - 1) / 10)


def test_a_share_between_two_steps_is_interpolated_in_the_logarithm_of_the_change():
    steps = piece([4 * 4.0, 4 * 64.0], [0.0, 4 * 32.0])
    # Changes 2 and 8, shares 1 and 1 / 2: half way is 4.
    assert at_change(steps, 4.0) == pytest.approx(0.75)
    assert at_change(steps, 9.0) is None
    assert at_change(steps, 1.0) is None


@pytest.mark.parametrize("kind", linearised.CONTROLS)
def test_controls_have_the_size_of_the_change_in_every_matrix(kind: str):
    draw = np.random.default_rng(0)
    base = {
        "layers": {"a": {"kernel": draw.normal(size=(2, 8, 4)).astype(np.float32)}},
        "norm": {"scale": np.ones(6, np.float32)},
    }
    post = {
        "layers": {"a": {"kernel": base["layers"]["a"]["kernel"] + draw.normal(size=(2, 8, 4))}},
        "norm": {"scale": base["norm"]["scale"] + draw.normal(size=6)},
    }
    moved = linearised.control(base, post, kind, 1)
    for before, after, control in (
        *zip(*(tree["layers"]["a"]["kernel"] for tree in (base, post, moved))),
        tuple(tree["norm"]["scale"] for tree in (base, post, moved)),
    ):
        change, drawn = after - before, control - before
        assert not np.allclose(change, drawn)
        np.testing.assert_allclose(np.linalg.norm(drawn), np.linalg.norm(change), rtol=1e-5)
        same = np.allclose(np.sort(drawn.ravel()), np.sort(change.ravel()), atol=1e-5)
        assert same == (kind == "shuffled")
    other = linearised.control(base, post, kind, 2)
    assert not np.array_equal(moved["norm"]["scale"], other["norm"]["scale"])


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("linearised")
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        record = linearised.STUDY.perform(folder / "out", folder / "work", quick=True)
    assert (folder / "out" / "linearised.svg").is_file()
    return record["figures"]


def test_the_study_in_small(figures: dict[str, Any]):
    shipped = figures["shipped"]["instruct"]
    steps = shipped["steps"]
    assert [step["scale"] for step in steps] == [0.25, 0.5, 1.0]
    # The nearer to base, the more nearly linear.
    assert steps[0]["share"]["mean"] > steps[-1]["share"]["mean"]
    modules = [shipped["parts"][part]["of_change"] for part in ("self_attn", "mlp", "other")]
    np.testing.assert_allclose(sum(modules), 1, rtol=1e-4)
    # A few steps of training are a small change: most of it is first order.
    first, last = (figures["trained"][step] for step in ("2", "4"))
    assert first["size"]["mean"] < last["size"]["mean"] < shipped["size"]
    assert last["whole"]["share"]["mean"] > 0.7 > shipped["whole"]["share"]["mean"]
    noise = shipped["controls"]["noise"]
    assert noise["steps"][0]["share"]["mean"] > noise["steps"][-1]["share"]["mean"]
    for where in ("near", "whole"):
        point = noise[where]
        less = point["own"]["mean"] - point["control"]["mean"]
        np.testing.assert_allclose(point["less"]["mean"], less, rtol=1e-3, atol=1e-4)
