"""Middle-k against top-k: which singular components should an adapter start from?

    python -m tools.studies.middle_k

The paper's appendix F expects that training the middle components of base's matrices does better
than training the top ones, as PiSSA does, since the top ones turn least. Here LoRA, PiSSA at top,
middle, bottom and random components, and LoRA whose A is those components' directions, are trained
from the reference family's base on the text of `instruct` and of `reasoning`, with a learning rate
chosen for every arm by the same rule: held-out loss, accuracy, what base forgets, and which of
base's components change. About MINUTES on one core (`--processes` shares it out).
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from tools.studies import drawing
from tools.studies import middle_k_arms as arms
from tools.studies import middle_k_changes as changes
from tools.studies import middle_k_figures as figures
from tools.studies.middle_k_training import FINAL_SALT, Run, Task, base_loss, heldout, perform
from tools.studies.study import Runs, Study

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
    seeds: int
    rank: int = 8
    ranked_seeds: int = 3
    base_batches: int = 4
    bin_steps: int = 10


PISSA = ("pissa_top", "pissa_middle", "pissa_bottom", "pissa_random")
FULL = Settings(
    plans=(
        Plan(
            Task("instruct", 160, rows=4, warmup=20, batches=16, questions=90, new_tokens=48),
            ("lora", *PISSA, "pissa_middle_scaled", "frame_top", "frame_middle", "lora_again"),
            ranks=(4, 16),
        ),
        Plan(
            Task("reasoning", 120, rows=2, warmup=20, batches=16, questions=90, new_tokens=224),
            ("lora", *PISSA),
        ),
    ),
    rates=(0.002, 0.006, 0.018),
    widenings=2,
    seeds=5,
)
QUICK = Settings(
    plans=(
        Plan(
            Task("instruct", steps=3, rows=2, warmup=1, batches=1, questions=2, new_tokens=4),
            ("lora", "lora_again", "pissa_top", "pissa_middle"),
        ),
    ),
    rates=(0.004, 0.016),
    widenings=0,
    seeds=2,
    rank=2,
    base_batches=1,
    bin_steps=1,
)


def tune(settings: Settings, runs: Runs) -> dict[str, dict[str, dict[float, float]]]:
    """Held-out loss by task, arm and learning rate, on the seed that is for it."""
    losses: dict[str, dict[str, dict[float, float]]] = {}
    asked = {
        (plan.task, arm): list(settings.rates)
        for plan in settings.plans
        for arm in plan.arms
        if not arms.ARMS[arm].draw
    }
    for _ in range(1 + settings.widenings):
        items = {
            f"tuning/{task.name}/{arm}/{rate:.5f}": _run(
                settings, task, arm, settings.rank, 0, rate, tuning=True
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
                items[_name(plan.task.name, arm, rank, seed)] = run
    return items


def _name(task: str, arm: str, rank: int, seed: int) -> str:
    return f"{task}/{arm}/rank{rank}/{seed}"


def measure(settings: Settings, runs: Runs) -> dict[str, Any]:
    """Chooses the rates, runs everything, and takes the figures together."""
    tuning = tune(settings, runs)
    rates = {
        task: {arm: chosen_rate(losses) for arm, losses in by_arm.items()}
        for task, by_arm in tuning.items()
    }
    done = runs.spread(perform, final_runs(settings, rates))

    def results(task: str, arm: str, rank: int, seeds: int) -> list[Any]:
        return [done[_name(task, arm, rank, seed + 1)] for seed in range(seeds)]

    tasks: dict[str, Any] = {}
    ranks: dict[str, Any] = {}
    by_task: dict[str, dict[str, list[Any]]] = {}
    for plan in settings.plans:
        task = plan.task.name
        by_task[task] = {
            arm: results(task, arm, settings.rank, settings.seeds) for arm in plan.arms
        }
        tasks[task] = {
            "before": _before(settings, plan.task),
            "shipped": {
                "relative": changes.relative(changes.shipped(task)),
                "thirds": changes.thirds(changes.shipped(task)),
            },
            "tuning": {
                arm: {f"{rate:g}": loss for rate, loss in sorted(losses.items())}
                for arm, losses in tuning[task].items()
            },
            "rates": rates[task],
            "arms": {arm: figures.arm_figures(each) for arm, each in by_task[task].items()},
        }
        if plan.ranks:
            ranks[task] = {
                str(rank): figures.contrast(
                    *(results(task, arm, rank, settings.ranked_seeds) for arm in RANKED)
                )
                for rank in sorted((*plan.ranks, settings.rank))
            }
    told = {
        "bin_steps": settings.bin_steps,
        "evenly": changes.evenly(),
        "tasks": tasks,
        "ranks": ranks,
        "contrasts": figures.contrasts(by_task),
    }
    return figures.rounded(told)


def _before(settings: Settings, task: Task) -> dict[str, float]:
    """Base's losses before anything is trained."""
    params = arms.base()[0]
    return {
        **heldout(params, task.recipe(0), task.batches, FINAL_SALT),
        "base_loss": base_loss(params, settings.base_batches),
    }


LABELS = {
    "lora": "LoRA",
    "pissa_top": "PiSSA, top",
    "pissa_middle": "PiSSA, middle",
    "pissa_bottom": "PiSSA, bottom",
    "pissa_random": "PiSSA, random",
}


def draw(told: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes middle_k.svg: the learning curves of every task."""
    tasks = told["tasks"]
    figure, axes = drawing.panels(len(tasks), width=3.6)
    for axis, (name, task) in zip(axes, tasks.items(), strict=True):
        for arm, label in LABELS.items():
            if arm not in task["arms"]:
                continue
            curve = task["arms"][arm]["curve"]
            steps = [told["bin_steps"] * (place + 0.5) for place in range(len(curve))]
            drawing.draw_line(axis, steps, curve, label)
        axis.set(title=f"base → {name}", xlabel="step", yscale="log")
    axes[0].set_ylabel("training loss, nats per token")
    axes[0].legend(fontsize=7)
    drawing.save(figure, folder / "middle_k.svg")


STUDY = Study("middle_k", FULL, QUICK, measure, draw)

if __name__ == "__main__":
    STUDY.run()
