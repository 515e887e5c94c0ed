"""Groups cover every layer once, in even lengths, within the budget."""

from __future__ import annotations

import pytest

from svdjax.engine.groups import group_length


@pytest.mark.parametrize("layers", [1, 2, 5, 28, 29, 64, 80])
@pytest.mark.parametrize("budget", [0, 1, 3, 7, 28, 1000])
@pytest.mark.parametrize("devices", [1, 2, 8])
def test_lengths(layers, budget, devices):
    length = group_length(layers, budget, devices)
    count = -(-layers // length)
    assert length % devices == 0
    assert length <= max(budget, devices), "over the budget, and not for want of devices"
    # Filling up wastes less than one round of the devices for each group.
    assert count * length - layers < count * devices


def test_whole_projection_fits_in_one_group():
    assert group_length(28, 28, 1) == 28
    assert group_length(28, 1000, 8) == 32
    assert group_length(28, 1000, 4) == 28


def test_little_is_filled_up():
    assert group_length(28, 8, 1) == 7
    assert group_length(25, 8, 1) == 5
    assert group_length(6, 5, 1) == 3
    assert group_length(28, 6, 2) == 4
    # One matrix too many is better than many groups of one.
    assert group_length(37, 36, 1) == 19
