"""Divides the groups of a sweep over its processes, by cost."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from svdjax.engine.groups import Group


def shares(groups: Sequence[Group], count: int, *, together: bool = False) -> list[list[Group]]:
    """Returns the groups of every process, in the order in which they were given.

    The largest goes first, each to whoever has least work so far (`Group.work`, n^3 and not
    the number of matrices): no process has more than 4/3 of what the best division would give it
    (Graham, Bounds on Multiprocessing Timing Anomalies, 1969).

    Args:
        groups: What is to be done.
        count: Of processes; each comes to the same division by itself.
        together: The same layers of all pairs go to one process, which then factorises a base that
            they share only once.
    """
    keys: list[Hashable] = [
        group.place if together else position for position, group in enumerate(groups)
    ]
    work: dict[Hashable, float] = {}
    for key, group in zip(keys, groups):
        work[key] = work.get(key, 0.0) + group.work
    load = [0.0] * count
    owner: dict[Hashable, int] = {}
    for key in sorted(work, key=lambda key: -work[key]):  # stable: ties stay in order
        owner[key] = min(range(count), key=lambda process: load[process])
        load[owner[key]] += work[key]
    return [
        [group for key, group in zip(keys, groups) if owner[key] == process]
        for process in range(count)
    ]
