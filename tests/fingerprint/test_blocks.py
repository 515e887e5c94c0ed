"""Blocks in any order and number: which goes with which, from singular values alone."""

from __future__ import annotations

import numpy as np
import pytest

from svdjax.fingerprint.blocks import assign_blocks, halves, spectral_distance


def spectra(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Singular values of blocks that differ by their decay, log-normal around it."""
    rng = np.random.default_rng(seed)
    return [
        {
            name: np.exp(np.sort(rng.standard_normal(40) * rng.uniform(0.5, 1.5)))[::-1]
            for name in ("q_proj", "up_proj")
        }
        for _ in range(count)
    ]


def near(block: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The block after a little training: singular values 2 % off, and scaled."""
    rng = np.random.default_rng(seed)
    return {
        name: 1.7 * np.sort(s * np.exp(0.02 * rng.standard_normal(len(s))))[::-1]
        for name, s in block.items()
    }


@pytest.mark.parametrize(
    "order",
    [[0, 1, 2, 3, 4], [0, 3, 2, 1, 4], [4, 0, 3, 1, 2], [1, 3, 4], [2], [1, 0, 1, 2, 4, 3, 4]],
)
def test_blocks_are_found_in_any_order(order):
    reference = spectra(5, seed=1)
    suspect = [near(reference[place], seed=number) for number, place in enumerate(order)]
    assert assign_blocks(reference, suspect) == [(b, n) for n, b in enumerate(order)]


def test_one_copied_block_outweighs_any_number_of_others():
    reference, suspect = spectra(6, seed=2), spectra(6, seed=3)
    suspect[1] = near(reference[4], seed=0)
    assert (4, 1) in assign_blocks(reference, suspect)
    # And one copied matrix: its variance is 1e3 times smaller than any other.
    suspect[1] = spectra(1, seed=4)[0] | {"q_proj": near(reference[4], seed=0)["q_proj"]}
    assert (4, 1) in assign_blocks(reference, suspect)


def test_the_distance_is_the_mean_log_variance_of_the_top():
    rng = np.random.default_rng(5)
    a, b = ({"q_proj": np.sort(rng.uniform(1, 9, 20))[::-1]} for _ in range(2))
    difference = np.log(a["q_proj"][:18]) - np.log(b["q_proj"][:18])
    # The floor for rounding is 1e-12.
    assert spectral_distance(a, b) == pytest.approx(np.log(np.var(difference) + 1e-12))
    scaled = {"q_proj": 3 * a["q_proj"]}
    assert spectral_distance(a, scaled) == pytest.approx(np.log(1e-12), rel=1e-3)


def test_copies_of_a_block_stay_in_one_half():
    # A rotation found in one half is tested in the other: no block of the reference is in both.
    assert halves([(0, 0), (2, 1), (5, 2), (2, 3)]) == [0, 1, 0, 1]
