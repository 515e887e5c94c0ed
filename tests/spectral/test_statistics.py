"""The numpy statistics over layers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from svdjax.spectral import nf_unrelated, svsm_statistics, top_count


@pytest.mark.parametrize(("r", "top"), [(1, 1), (2, 1), (9, 8), (10, 9), (256, 230), (1536, 1382)])
def test_top_is_the_floor_of_nine_tenths(r, top):
    assert top_count(r) == top == max(1, math.floor(0.9 * r))


def test_statistics_are_those_of_the_top_over_all_layers():
    svsm = np.random.default_rng(21).uniform(0.8, 1.1, (5, 20))
    svsm[:, 18:] = 100.0  # the tail does not count
    got = svsm_statistics(svsm)
    np.testing.assert_allclose(got.alpha_mean, svsm[:, :18].mean())
    np.testing.assert_allclose(got.alpha_std, np.std(svsm[:, :18]))
    np.testing.assert_allclose(got.layer_mean, svsm[:, :18].mean(axis=1))
    np.testing.assert_allclose(got.layer_std, svsm[:, :18].std(axis=1))
    assert (got.top, got.nan_top, got.nan_all) == (18, 0, 0)


@pytest.mark.parametrize(("mean", "prime"), [(0.9071, 0.9), (1.3551, 1.4), (0.9993, 1.0)])
def test_alpha_prime_is_rounded_to_one_decimal(mean, prime):
    assert svsm_statistics(np.full((2, 10), mean)).alpha_prime == prime


def test_nan_is_counted_and_left_out():
    svsm = np.ones((3, 10))
    svsm[0] = np.nan
    svsm[1, 8:] = np.nan
    got = svsm_statistics(svsm)
    assert (got.nan_top, got.nan_all) == (10, 12)
    assert got.alpha_mean == 1
    assert np.isnan(got.layer_mean[0])
    assert np.isnan(svsm_statistics(np.full((2, 3), np.nan)).alpha_prime)


def test_nf_unrelated():
    assert nf_unrelated(1536, 1536) == pytest.approx(math.sqrt(2 / 1536))
    assert nf_unrelated(8960, 1536) == nf_unrelated(1536, 8960)
