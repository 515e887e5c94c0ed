"""Groups are divided by cost, each to one process."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from svdjax.engine.cost import Cost
from svdjax.engine.groups import Group
from svdjax.engine.shares import shares


@dataclasses.dataclass(frozen=True)
class Named:
    """As much of a projection as a division looks at."""

    name: str


def group(name: str, work: float, pair: str = "pair", start: int = 0) -> Group:
    """A group of so much work."""
    projection: Any = Named(name)
    return Group(pair, projection, start, start + 1, 1, 1, 1, Cost(work, {}, 0, 0))


def test_cost_is_balanced_and_not_count():
    groups = [group("down", 8.0), *(group("k", 1.0, start=s) for s in range(8))]
    first, second = shares(groups, 2)
    assert [len(first), len(second)] == [1, 8]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_group_has_one_owner_and_order_is_kept(count):
    groups = [group("x", float(1 + (s * 7) % 5), start=s) for s in range(20)]
    parts = shares(groups, count)
    assert sorted((g for part in parts for g in part), key=lambda g: g.start) == groups
    assert all([g.start for g in part] == sorted(g.start for g in part) for part in parts)
    loads = [sum(g.work for g in part) for part in parts]
    assert max(loads) <= 4 / 3 * max(sum(loads) / count, 5.0)
    assert shares(groups, count) == parts


def test_what_shares_a_base_stays_together():
    groups = [group("q", 1.0, pair, start) for pair in ("a", "b") for start in range(4)]
    for part in shares(groups, 2, together=True):
        assert len({g.start for g in part}) == 2
        assert len(part) == 4


def test_more_processes_than_groups():
    assert [len(part) for part in shares([group("q", 1.0)], 3)] == [1, 0, 0]
    assert shares([], 2) == [[], []]
