"""Where in base's singular frame a change of the weights lies, and where its start would put it.

Axes: `L` layers, `I` in, `O` out, `R` = min(I, O), `K` rank.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from svdjax import reference
from tools.reference.family import read_model
from tools.studies import middle_k_arms as arms

Changes = Mapping[str, np.ndarray]
THIRDS = ("top", "middle", "bottom")


def thirds(change: Changes) -> dict[str, float]:
    """Share of the energy in the top, middle and bottom third of base's components.

    Component j of a matrix has half of ``|u_j^T D|^2`` and half of ``|D v_j|^2``, D the change
    [L, I, O]: all of them together have its whole energy ``|D|^2``, but for what lies ``outside``,
    on the long side of a matrix that is not square beyond its R directions.
    """
    energy = dict.fromkeys(THIRDS, 0.0)
    total = 0.0
    for name, d in change.items():
        factors = arms.frames()[name]
        left = np.sum((np.swapaxes(np.asarray(factors.u), 1, 2) @ d) ** 2, axis=2)
        right = np.sum((d @ np.asarray(factors.v)) ** 2, axis=1)
        for third, part in zip(THIRDS, np.array_split((left + right) / 2, 3, axis=1), strict=True):
            energy[third] += float(part.sum())
        total += float(np.sum(d**2))
    shares = {third: value / total for third, value in energy.items()}
    return shares | {"outside": 1 - sum(shares.values())}


def evenly() -> dict[str, float]:
    """`thirds` of independent random entries, as expected: a matrix counts by its size."""
    energy = dict.fromkeys(THIRDS, 0.0)
    total = 0.0
    for factors in arms.frames().values():
        inputs, outputs, count = factors.u.shape[1], factors.v.shape[1], factors.s.shape[1]
        for third, part in zip(THIRDS, np.array_split(np.arange(count), 3), strict=True):
            energy[third] += len(part) * (inputs + outputs) / 2
        total += inputs * outputs
    shares = {third: value / total for third, value in energy.items()}
    return shares | {"outside": 1 - sum(shares.values())}


def inside(change: Changes, parts: Mapping[str, Mapping[str, np.ndarray]]) -> float:
    """Share of the energy whose left or right side lies in the directions of the start.

    ``1 - |(1 - P) D (1 - Q)|^2 / |D|^2``, P onto the left directions, Q onto the right ones; where
    B starts at zero, Q = 0. It is 1 while A and B have moved little beside themselves.
    """
    outside = total = 0.0
    for name, d in change.items():
        rest = d - _onto(parts[name]["u"]) @ d
        if "v" in parts[name]:
            rest = rest - rest @ _onto(parts[name]["v"])
        outside += float(np.sum(rest**2))
        total += float(np.sum(d**2))
    return 1 - outside / total


def _onto(vectors: np.ndarray) -> np.ndarray:
    q = np.linalg.qr(vectors)[0]
    return q @ np.swapaxes(q, 1, 2)


def projected(change: Changes, parts: Mapping[str, Mapping[str, np.ndarray]]) -> Changes:
    """What a start makes of a change to first order: ``A A^T D + D B^T B``.

    One step down a gradient D moves A by ``D B^T`` and B by ``A^T D``.
    """
    result = {}
    for name, d in change.items():
        u, root = parts[name]["u"], 1.0
        if "s" in parts[name]:
            root = np.sqrt(parts[name]["s"])[:, None, :]
        moved = (u * root) @ (np.swapaxes(u * root, 1, 2) @ d)
        if "v" in parts[name]:
            v = parts[name]["v"] * root
            moved = moved + (d @ v) @ np.swapaxes(v, 1, 2)
        result[name] = moved
    return result


@functools.cache
def shipped(task: str) -> Changes:
    """The change of base's matrices in the shipped model of the task, all of it trained."""
    post = arms.kernels(read_model(reference.path(task))[0])
    return {name: post[name] - w for name, w in arms.kernels(arms.base()[0]).items()}


def relative(change: Changes) -> float:
    """Norm of the change beside that of base's matrices, all together."""
    norms = arms.kernels(arms.base()[0])
    squares = [sum(float(np.sum(each[name] ** 2)) for name in norms) for each in (change, norms)]
    return float(np.sqrt(squares[0] / squares[1]))


def of_run(
    arm: arms.Arm, rank: int, seed: int, task: str, before: arms.Adapters, after: arms.Adapters
) -> dict[str, Any]:
    """Size and place of what training changed; JSON data."""
    change = {
        name: arms.product(_wide(after[name])) - arms.product(_wide(adapter))
        for name, adapter in before.items()
    }
    told = {"relative": relative(change), "thirds": thirds(change)}
    if arm.kind == "full":
        return told | {"predicted": thirds(shipped(task)), "inside": 1.0}
    parts = arms.directions(arm, rank, seed)
    if arm.kind != "pissa":
        parts = {name: {"u": each["u"]} for name, each in parts.items()}
    predicted = thirds(projected(shipped(task), parts))
    return told | {"predicted": predicted, "inside": inside(change, parts)}


def _wide(adapter: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {key: np.asarray(leaf, np.float64) for key, leaf in adapter.items()}
