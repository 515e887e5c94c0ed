"""Figures of `tools.studies.rl`: intervals over the seeds, differences seed by seed, the plot."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tools.studies import drawing
from tools.studies.rl_change import THIRDS
from tools.studies.rl_training import ARMS
from tools.studies.statistics import interval

COMPARED = ("rejection", "supervised", "rejection sized", "supervised sized", "noise")


def summarise(
    trained: Mapping[str, Any],
    described: Sequence[Mapping[str, Any]],
    shipped: Mapping[str, Any],
    seeds: Sequence[int],
) -> dict[str, Any]:
    """The study's figures.

    Args:
        trained: What `rl_training.train_run` says, by ``arm-seed``.
        described: What `rl.describe_seed` says, of each seed.
        shipped: Descriptions of the shipped models.
        seeds: The seeds.

    Returns:
        ``accuracy`` by model and ``rewards`` by seed; ``ahead``: rl's accuracy less that of another
        arm; ``change`` by origin, model and measure; ``against``: rl's less that of another, seed
        by seed, by origin, other and measure; ``cosines``; ``nearer``: the cosine of rl with
        rejection less that with supervised; ``solution_share`` of rl's right answers; ``shipped``.
    """

    def right(arm: str, kind: str) -> list[float]:
        return [trained[f"{arm}-{seed}"][kind] for seed in seeds]

    kinds = ("greedy", "sampled")
    cosines = [one["cosines"] for one in described]
    origins = ("base", "start")
    return {
        "accuracy": {
            arm: {kind: interval(right(arm, kind)) for kind in kinds} for arm in ("start", *ARMS)
        },
        "ahead": {
            arm: {
                kind: interval(np.subtract(right("rl", kind), right(arm, kind)).tolist())
                for kind in kinds
            }
            for arm in ("start", *ARMS[1:])
        },
        "rewards": [trained[f"rl-{seed}"]["rewards"] for seed in seeds],
        "change": {
            origin: {
                name: {key: _brief([one[origin][name][key] for one in described]) for key in told}
                for name, told in described[0][origin].items()
            }
            for origin in origins
        },
        "against": {
            origin: {name: _differences(described, origin, name) for name in COMPARED}
            for origin in origins
        },
        "cosines": {key: interval([one[key] for one in cosines]) for key in cosines[0]},
        "nearer": interval([one["rl rejection"] - one["rl supervised"] for one in cosines]),
        "solution_share": interval([one["solution_share"] for one in described]),
        "shipped": dict(shipped),
    }


def _differences(described: Sequence[Mapping[str, Any]], origin: str, name: str) -> dict[str, Any]:
    """Rl less another model in every measure, seed by seed."""
    pairs = [(one[origin]["rl"], one[origin][name]) for one in described]
    return {key: _brief([rl[key] - other[key] for rl, other in pairs]) for key in pairs[0][0]}


def _brief(values: Sequence[float]) -> dict[str, Any]:
    """An interval in six digits, without the values it is of: there are many."""
    return {key: float(f"{interval(values)[key]:.6g}") for key in ("mean", "low", "high")}


def draw(figures: dict[str, Any], folder: pathlib.Path) -> None:
    """Rewards in training, and where in base's spectrum the changes since the start lie."""
    figure, (left, right) = drawing.panels(2)
    rewards = np.array(figures["rewards"])
    told = [interval(column) for column in rewards.T.tolist()]
    drawing.draw_line(left, (10 * np.arange(1, len(told) + 1)).tolist(), told, "rl")
    left.set(xlabel="step", ylabel="sampled answers right", ylim=(0, 1))
    change = figures["change"]["start"]
    for name in (*ARMS, "noise"):
        drawing.draw_line(right, range(3), [change[name][third] for third in THIRDS], name)
    right.set(xlabel="third of base's directions", ylabel="energy of the change / noise's")
    right.set_xticks(range(3), THIRDS)
    right.legend()
    drawing.save(figure, folder / "rl.svg")
