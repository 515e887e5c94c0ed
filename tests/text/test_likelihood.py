"""Log-probabilities and KL in float32, against float64 numpy, where the usual formulas fail."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from svdjax.text import likelihood
from tests.text.expected import log_softmax

log_probabilities = jax.jit(likelihood.log_probabilities)
kl_divergence = jax.jit(likelihood.kl_divergence)


def logits(shape=(40, 300), scale=3.0, seed=0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 30.0, 1e4])
def test_log_probabilities(scale):
    x = logits(scale=scale)
    found = np.asarray(log_probabilities(x))
    assert found.dtype == np.float32
    # Rounding of x - m and of a sum of 300 positive terms, a few ulp of the result; underflow.
    np.testing.assert_allclose(found, log_softmax(x), rtol=1e-6, atol=1e-37)


@pytest.mark.parametrize("gap", [0.0, 1.0, 8.0, 16.0, 40.0, 80.0])
def test_small_losses_keep_their_relative_accuracy(gap):
    x = logits(scale=0.5)
    x[:, 7] = x.max(-1) + gap
    found = np.asarray(log_probabilities(x))[:, 7]
    shifted = x.astype(np.float64) - x[:, 7:8]
    wanted = -np.log1p(np.exp(np.delete(shifted, 7, axis=-1)).sum(-1))
    # The gaps themselves, up to 80, are rounded to 6e-8 of their size before exp.
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_two_equal_maxima_share():
    x = np.array([[5.0, 5.0, -100.0]], np.float32)
    np.testing.assert_allclose(log_probabilities(x)[0, :2], -np.log(2.0), rtol=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_nan_in_its_row_only(bad):
    x = logits((3, 10))
    x[1, 4] = bad
    found = np.asarray(log_probabilities(x))
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()
    kl = np.asarray(kl_divergence(found, found[::-1]))
    assert np.isnan(kl).tolist() == [False, True, False]


@pytest.mark.parametrize("step", [1e-5, 1e-4, 1e-2, 0.3, 1.0, 10.0, 80.0])
def test_kl_of_near_and_of_far_distributions(step):
    x, y = logits(), logits() + step * logits(scale=1.0, seed=1)
    p, q = (log_probabilities(each) for each in (x, y))
    found = np.asarray(kl_divergence(p, q))
    assert (found >= 0).all()
    # From the same rounded logarithms, in a form that loses none of what they tell apart. Beyond
    # the series, d - 1 and exp(-d) cancel to a tenth: one digit of float32.
    wide, d = np.asarray(p, np.float64), np.asarray(p, np.float64) - np.asarray(q, np.float64)
    np.testing.assert_allclose(found, np.sum(np.exp(wide) * (d + np.expm1(-d)), -1), rtol=5e-6)
    # From the definition: log p and log q are rounded by a few 1e-7, which counts in proportion to
    # d, that is to the root of KL.
    a, b = log_softmax(x), log_softmax(y)
    plain = np.sum(np.exp(a) * (a - b), -1)
    assert np.all(np.abs(found - plain) <= 2e-6 * (np.sqrt(plain) + plain))


def test_kl_to_itself_is_zero():
    p = log_probabilities(logits())
    assert np.all(np.asarray(kl_divergence(p, p)) == 0.0)


def test_extremes_stay_finite():
    """Probabilities that underflow on one side, on the other, or on both."""
    x = np.array([[0.0, -300.0, -300.0], [0.0, -300.0, 0.0]], np.float32)
    p = log_probabilities(x)
    found = np.asarray(kl_divergence(p, p[:, ::-1]))
    a, b = log_softmax(x), log_softmax(x)[:, ::-1]
    wanted = np.sum(np.exp(a) * (a - b), -1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
