"""Cuts the work into groups: one projection of one pair, a run of layers, within a byte budget.

A group is what is read, computed and journaled at once. All groups of a projection have one
length, so that each shape is compiled once; the last one is filled up with copies of its last
layer (zero matrices that are not long would go through SVDs: no Gram matrix tells their vectors).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from svdjax.checkpoint import Checkpoint, PairPlan, Projection
from svdjax.engine.cost import Cost, matrix_bytes, pair_cost
from svdjax.errors import printable


@dataclass(frozen=True)
class Group:
    """Layers ``[start, stop)`` of one projection of one pair.

    Attributes:
        pair: The pair's name.
        projection: Which tensors.
        start: First layer.
        stop: One past the last layer.
        length: Layers of the stack on the devices, at least ``stop - start``.
        bytes: Host bytes of both stacks as stored.
        read: Bytes read for it; less than `bytes` where a group before leaves a side on the
            devices.
        cost: Of one of its matrices; less where a group before leaves a side on the devices.
    """

    pair: str
    projection: Projection
    start: int
    stop: int
    length: int
    bytes: int
    read: int
    cost: Cost = field(compare=False)

    @property
    def work(self) -> float:
        """Floating point operations, those of its padding included."""
        return self.length * self.cost.operations

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of its layers' tensors."""
        return self.projection.tensors[self.start : self.stop]

    @property
    def label(self) -> str:
        """Name in the log: ``q_proj[0:6]``."""
        return f"{printable(self.projection.name, 80)}[{self.start}:{self.stop}]"

    @property
    def place(self) -> tuple[str, int]:
        """Place in a model, that of other pairs' groups of the same matrices."""
        return self.projection.name, self.start


def plan_groups(pair: str, plan: PairPlan, *, group_bytes: int, devices: int) -> list[Group]:
    """Cuts every projection of a pair into groups.

    A group has as many layers as fit `group_bytes` (both matrices as stored), at least one for
    each device (an idle device helps nobody); see `group_length`.
    """
    groups = []
    for projection in plan.projections:
        layers = len(projection.tensors)
        per_layer = sum(side_bytes(side, projection) for side in (plan.base, plan.post))
        length = group_length(layers, group_bytes // per_layer, devices)
        for start in range(0, layers, length):
            groups.append(
                Group(
                    pair=pair,
                    projection=projection,
                    start=start,
                    stop=min(start + length, layers),
                    length=length,
                    bytes=length * per_layer,
                    read=(min(start + length, layers) - start) * per_layer,
                    cost=pair_cost(projection.shape),
                )
            )
    return groups


def side_by_side(groups: Sequence[Group]) -> list[Group]:
    """Groups in another order: those of all pairs at one place of the model, then the next."""
    order = {place: number for number, place in enumerate(dict.fromkeys(g.place for g in groups))}
    return sorted(groups, key=lambda group: order[group.place])


def group_length(layers: int, budget: int, devices: int) -> int:
    """Layers per group when `budget` of them fit: a multiple of `devices`, and little to fill up.

    A group more costs something too, if less than a matrix on each device.
    """
    rounds = -(-layers // devices)

    def cost(length: int) -> float:
        groups = -(-rounds // length)
        return groups * length + groups / 8

    most = min(max(budget // devices, 1), rounds)
    return devices * min(range(most, 0, -1), key=cost)


def side_bytes(checkpoint: Checkpoint, projection: Projection) -> int:
    """Bytes of one layer of a projection in one checkpoint, as stored."""
    itemsize = checkpoint.spec(projection.tensors[0]).dtype.itemsize
    return projection.shape[0] * projection.shape[1] * itemsize


def working_bytes(plans: Iterable[PairPlan]) -> int:
    """Bytes a device holds while it works on the largest matrix pair of `plans`, roughly."""
    shapes = {projection.shape for plan in plans for projection in plan.projections}
    return max(map(matrix_bytes, shapes), default=0)


def padding_share(groups: Sequence[Group]) -> float:
    """Share of the work of `groups` that goes into copies of their last layers."""
    layers = sum((group.stop - group.start) * group.cost.operations for group in groups)
    return 1 - layers / total_work(groups)


def total_work(groups: Sequence[Group]) -> float:
    """Sum of the work of `groups`; never 0, it is divided by."""
    return max(sum(group.work for group in groups), 1.0)
