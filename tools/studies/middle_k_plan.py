"""What the study `middle_k` runs: every arm at several learning rates, then every seed.

Seed 0 and a text of its own are for the rates; seeds from 1 are for the results.
"""

from __future__ import annotations

import dataclasses

from tools.studies import middle_k_arms as arms
from tools.studies.middle_k_training import Run, Task, perform
from tools.studies.study import Runs

RANKED = ("pissa_middle", "pissa_top")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is run of one task.

    Attributes:
        task: The task.
        arms: Names of the arms at the main rank.
        ranks: Other ranks, of `RANKED` alone, with the main rank's learning rates.
    """

    task: Task
    arms: tuple[str, ...]
    ranks: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of the study; seed 0 is for the learning rates, 1 to `seeds` for the results.

    Attributes:
        plans: What is run of each task.
        rates: Learning rates that every arm is tried with, ascending, by a constant factor.
        tuning_share: Steps of the runs that choose a rate, as a share of the task's.
        widenings: How often an arm whose best rate is at an end of the grid gets one more there.
        seeds: Repetitions at the main rank.
        rank: The main rank.
        ranked_seeds: Repetitions at other ranks.
        base_batches: Batches of base's held-out text.
        bin_steps: Steps of which a learning curve shows the mean.
    """

    plans: tuple[Plan, ...]
    rates: tuple[float, ...]
    widenings: int
    tuning_share: float
    seeds: int
    rank: int = 8
    ranked_seeds: int = 3
    base_batches: int = 4
    bin_steps: int = 10


def tune(settings: Settings, runs: Runs) -> dict[str, dict[str, dict[float, float]]]:
    """Held-out loss by task, arm and learning rate, on the seed that is for it."""
    losses: dict[str, dict[str, dict[float, float]]] = {}

    def shortened(task: Task) -> Task:
        return dataclasses.replace(task, steps=round(settings.tuning_share * task.steps))

    asked = {
        (plan.task, arm): list(settings.rates)
        for plan in settings.plans
        for arm in plan.arms
        if not arms.ARMS[arm].draw
    }
    for _ in range(1 + settings.widenings):
        items = {
            f"tuning/{task.name}/{arm}/{rate:.5f}": _run(
                settings, shortened(task), arm, settings.rank, 0, rate, tuning=True
            )
            for (task, arm), rates in asked.items()
            for rate in rates
        }
        done = runs.spread(perform, items)
        for name, item in items.items():
            by_rate = losses.setdefault(item.task.name, {}).setdefault(item.arm, {})
            by_rate[item.rate] = done[name]["loss"]
        asked = {key: wider(losses[key[0].name][key[1]]) for key in asked}
    return losses


def wider(losses: dict[float, float]) -> list[float]:
    """The next rate beyond an end of the grid where the best one lies, or none."""
    rates = sorted(losses)
    best, factor = chosen_rate(losses), rates[1] / rates[0]
    if best == rates[0]:
        return [round(best / factor, 5)]
    return [round(best * factor, 5)] if best == rates[-1] else []


def chosen_rate(losses: dict[float, float]) -> float:
    """The rate of the lowest held-out loss."""
    return min(losses, key=losses.__getitem__)


def _run(
    settings: Settings,
    task: Task,
    arm: str,
    rank: int,
    seed: int,
    rate: float,
    *,
    tuning: bool = False,
) -> Run:
    return Run(
        task, arm, rank, seed, rate, settings.base_batches, settings.bin_steps, tuning=tuning
    )


def final_runs(settings: Settings, rates: dict[str, dict[str, float]]) -> dict[str, Run]:
    """The runs of the results, by name.

    Seed by seed, so that what an interrupted study has is of use. Other ranks, and the second draw
    of LoRA, take the rate of the arm that they stand beside.
    """
    items: dict[str, Run] = {}
    for seed in range(1, settings.seeds + 1):
        for plan in settings.plans:
            wanted = [(arm, settings.rank) for arm in plan.arms]
            if seed <= settings.ranked_seeds:
                wanted += [(arm, rank) for rank in plan.ranks for arm in RANKED]
            for arm, rank in wanted:
                tuned = arms.ARMS[arm].kind if arms.ARMS[arm].draw else arm
                rate = rates[plan.task.name][tuned]
                run = _run(settings, plan.task, arm, rank, seed, rate)
                items[run_name(plan.task.name, arm, rank, seed)] = run
    return items


def run_name(task: str, arm: str, rank: int, seed: int) -> str:
    """Under which a run of the results is kept."""
    return f"{task}/{arm}/rank{rank}/{seed}"
