"""The study of scaling and confidence in small, and its measures against numpy."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from svdjax import reference
from tools.reference.family import read_model
from tools.studies import confidence
from tools.studies.confidence_measures import (
    Unscaled,
    calibration_floor,
    expected_calibration_error,
)


def test_calibration_error_by_bins_of_equal_mass():
    draw = np.random.default_rng(7)
    top, right = draw.random(300), draw.random(300) < 0.5
    order = sorted(range(300), key=lambda i: top[i])
    expected = 0.0
    for start in range(0, 300, 20):
        part = order[start : start + 20]
        gap = np.mean([right[i] for i in part]) - np.mean([top[i] for i in part])
        expected += 20 / 300 * abs(gap)
    np.testing.assert_allclose(expected_calibration_error(top, right), expected)
    assert expected_calibration_error(np.ones(30), np.zeros(30, bool)) == 1
    # One that is calibrated shows the noise of 20 answers a bin: sqrt(2 / pi) of the deviation.
    by_chance = np.mean(np.sqrt(top * (1 - top) / 20)) * np.sqrt(2 / np.pi)
    np.testing.assert_allclose(calibration_floor(top), by_chance, rtol=0.1)


def test_a_temperature_is_found_to_be_one():
    draw = np.random.default_rng(1)
    logits, targets = 4 * draw.normal(size=(200, 12)), draw.integers(0, 12, 200)
    unscaled = Unscaled(logits, targets)
    row = unscaled.compare(logits / 1.7 + draw.normal(size=(200, 1)))
    np.testing.assert_allclose(row["temperature"], 1.7, rtol=1e-3)
    np.testing.assert_allclose(row["slope"], 1 / 1.7, rtol=1e-9)
    np.testing.assert_allclose(row["rescaled"], 1, rtol=1e-9)
    assert row["left"] < 1e-5
    assert abs(row["nll_less"]) < 1e-3
    # p log p by hand, at the temperature 1.7.
    p = np.exp(logits / 1.7)
    p /= p.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(row["entropy"], -(p * np.log(p)).sum(axis=1).mean())
    np.testing.assert_allclose(row["nll"], -np.log(p[np.arange(200), targets]).mean())
    # What has nothing to do with a temperature leaves most of the change.
    other = unscaled.compare(logits + draw.normal(size=logits.shape))
    assert other["left"] > 0.8
    assert other["rescaled"] < 0.3


def test_noise_is_as_large_as_the_scaling():
    params, config, _ = read_model(reference.path("base"))
    same = jax.tree.map(np.asarray, params)
    noisy = confidence.noisy(params, config, "qk", 0.4, 1)
    scaled = confidence.scaled(params, config, "qk", confidence.ALL_LAYERS, 1.4)
    for name, changes in (("q_proj", True), ("k_proj", True), ("v_proj", False)):
        kernel = same["layers"]["self_attn"][name]["kernel"]
        for edited in (noisy, scaled):
            change = np.asarray(edited["layers"]["self_attn"][name]["kernel"]) - kernel
            shares = np.linalg.norm(change, axis=(1, 2)) / np.linalg.norm(kernel, axis=(1, 2))
            np.testing.assert_allclose(shares, 0.4 * changes, rtol=1e-4)
    one = confidence.scaled(params, config, "qk", 2, 1.4)["layers"]["self_attn"]["q_proj"]["kernel"]
    moved = np.abs(np.asarray(one) - same["layers"]["self_attn"]["q_proj"]["kernel"]).max((1, 2))
    assert (moved > 0).tolist() == [False, False, True, False, False]


def test_draws_of_text_are_disjoint_and_held_out():
    texts = [confidence.answers("instruct", draw, 1)[0] for draw in (31, 32)]
    assert len(texts[0]) == 9
    assert not {row.tobytes() for row in texts[0]} & {row.tobytes() for row in texts[1]}
    tokens, counted = confidence.pretraining_text(31, 2)
    assert tokens.shape == (2, 129)
    assert counted.shape == (2, 128)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("confidence")
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        record = confidence.STUDY.perform(folder / "out", folder / "work", quick=True)
    assert (folder / "out" / "confidence.svg").is_file()
    return record["figures"]


def test_the_study_in_small(figures: dict[str, Any]):
    instruct = figures["instruct"]
    assert instruct["unscaled"]["accuracy"]["mean"] > 0.95
    assert set(instruct["modules"]) == {"qk", "all"}
    module = instruct["modules"]["all"]
    # Smaller weights are less sure, as a higher temperature is.
    assert module["factors"]["0.7"]["temperature"]["mean"] > 1
    assert 0 < module["ends"]["low"]["left"]["mean"] < 1
    assert set(module["layers"]) == {"0", "1", "2", "3", "4"}
    assert module["ends"]["low"]["nll_less"]["mean"] > 0
    assert figures["trained"]["unscaled"]["nll"]["mean"] > 0.1
