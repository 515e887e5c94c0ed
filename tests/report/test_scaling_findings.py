"""When singular values are said to be scaled, with numbers on both sides of each condition."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from svdjax.nulls.verdicts import Judgement, NullTest
from svdjax.spectra.scaling_findings import exceeds_drift, scaling_lead


def projection(mean: float, std: float, least_squares: float, name: str = "q_proj") -> Any:
    metrics = SimpleNamespace(alpha_ls=np.full(2, least_squares))
    return SimpleNamespace(name=name, alpha_mean=mean, alpha_std=std, metrics=metrics)


def judgement(verdict: str, observed: float, alone: float) -> Judgement:
    return Judgement(verdict, 0.01, NullTest(observed, alone, 0.001, 9.0, 0.05, 1.0, 0.001))


@pytest.mark.parametrize(
    ("mean", "std", "least_squares", "wanted"),
    [
        (0.90, 0.004, 0.901, True),
        (1.36, 0.05, 1.34, True),
        # The mean drifts where least squares does not: the reference family's q_proj.
        (1.035, 0.03, 0.994, False),
        (1.035, 0.03, 1.034, True),
        # Half of what the mean is off is the drift, or less than half.
        (1.04, 0.001, 1.019, False),
        (1.04, 0.001, 1.021, True),
        # No farther from 1 than the factors from each other.
        (1.01, 0.012, 1.011, False),
        (1.01, 0.010, 1.011, True),
        (1.0, 0.0, 1.0, False),
        # Unrelated matrices of one size: nothing of the base is in post.
        (0.988, 0.03, 0.001, False),
    ],
)
def test_by_least_squares(mean, std, least_squares, wanted):
    assert exceeds_drift(projection(mean, std, least_squares), None) is wanted


@pytest.mark.parametrize(
    ("verdict", "mean", "alone", "std", "wanted"),
    [
        ("above", 1.10, 1.04, 0.02, True),
        ("above", 1.10, 1.04, 0.07, False),
        ("within", 1.10, 1.09, 0.001, False),
        # Below what the change alone makes, and yet above 1: not scaled up.
        ("below", 1.035, 1.052, 0.002, False),
        ("below", 0.90, 1.02, 0.01, True),
        ("above", 0.99, 0.95, 0.01, False),
    ],
)
def test_by_draws(verdict, mean, alone, std, wanted):
    one = projection(mean, std, mean)
    assert exceeds_drift(one, judgement(verdict, mean, alone)) is wanted


def test_sentences():
    scaled, uneven = projection(0.9, 0.004, 0.901), projection(0.9, 0.06, 0.9, "k_proj")
    still = projection(1.035, 0.03, 0.994, "v_proj")
    text = scaling_lead([scaled], {})
    assert text.startswith("Each projection's singular values were scaled by a nearly uniform")
    assert "means 0.900, by least squares 0.901" in text
    text = scaling_lead([scaled, uneven, still], {})
    assert "by a nearly uniform factor in 1 of 3 projections, q_proj (means" in text
    text = scaling_lead([uneven], {})
    assert text.startswith("No projection's singular values were scaled by one factor (means")
    text = scaling_lead([still, uneven], {})
    assert "by a factor beyond what a change without any scaling makes" in text
    assert "by least squares between 0.900 and 0.994" in text
    text = scaling_lead([still], {"v_proj": judgement("below", 1.035, 1.052)})
    assert "a change of that size without any scaling gives 1.052" in text
    assert scaling_lead([projection(np.nan, np.nan, np.nan)], {}) == ""
