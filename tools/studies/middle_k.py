"""Middle-k against top-k: which singular components should an adapter start from?

    python -m tools.studies.middle_k

The paper's appendix F expects that training the middle components of base's matrices does better
than training the top ones, as PiSSA does, since the top ones turn least. Here LoRA, and PiSSA at
top, middle, bottom and random components, are trained from the reference family's base on the text
of `instruct` and of `reasoning`, with a learning rate chosen for every arm by the same rule:
held-out loss, accuracy, what base forgets, and which of base's components change. Beside them LoRA
along singular directions (``frame_…``), all entries of the same matrices (``full``), and ranks 4
and 16. Nearly two hours of one core.
"""

from __future__ import annotations

import pathlib
from typing import Any

from tools.reference.recipes import RECIPES
from tools.studies import drawing
from tools.studies import middle_k_arms as arms
from tools.studies import middle_k_changes as changes
from tools.studies import middle_k_figures as figures
from tools.studies.middle_k_plan import (
    RANKED,
    Plan,
    Settings,
    chosen_rate,
    final_runs,
    run_name,
    tune,
)
from tools.studies.middle_k_training import FINAL_SALT, Task, base_loss, heldout, perform
from tools.studies.study import Runs, Study

PISSA = ("pissa_top", "pissa_middle", "pissa_bottom", "pissa_random")
FRAMES = ("frame_top", "frame_middle", "frame_bottom", "frame_random")
FULL = Settings(
    plans=(
        Plan(
            # Two sequences a step: the same questions answered take the least time so.
            Task("instruct", 700, rows=2, warmup=40, batches=32, questions=150, new_tokens=48),
            (
                *("lora", *PISSA, *FRAMES, "full"),
                *("pissa_middle_scaled", "lora_again"),
            ),
            ranks=(4, 16),
        ),
        Plan(
            Task("reasoning", 600, rows=2, warmup=40, batches=24, questions=60, new_tokens=224),
            ("lora", *PISSA, *FRAMES),
        ),
    ),
    rates=(0.0013, 0.004, 0.012),
    widenings=2,
    tuning_share=0.5,
    seeds=5,
    bin_steps=25,
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
    tuning_share=1.0,
    seeds=2,
    rank=2,
    base_batches=1,
    bin_steps=1,
)


def measure(settings: Settings, runs: Runs) -> dict[str, Any]:
    """Chooses the rates, runs everything, and takes the figures together."""
    tuning = tune(settings, runs)
    rates = {
        task: {arm: chosen_rate(losses) for arm, losses in by_arm.items()}
        for task, by_arm in tuning.items()
    }
    done = runs.spread(perform, final_runs(settings, rates))

    def results(task: str, arm: str, rank: int, seeds: int) -> list[Any]:
        return [done[run_name(task, arm, rank, seed + 1)] for seed in range(seeds)]

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
            "length": RECIPES[task].length,
            "shipped": {
                "exchanges": RECIPES[task].steps * RECIPES[task].rows,
                "relative": changes.relative(changes.shipped(task)),
                "thirds": changes.thirds(changes.shipped(task)),
            },
            "tuning": {
                arm: {f"{rate:g}": loss for rate, loss in sorted(losses.items())}
                for arm, losses in tuning[task].items()
            },
            "rates": rates[task],
            "finer": {arm: figures.finer(losses) for arm, losses in tuning[task].items()},
            "arms": {
                arm: figures.arm_figures(each, by_task[task]["lora"])
                for arm, each in by_task[task].items()
            },
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
        "components": sorted({factors.s.shape[1] for factors in arms.frames().values()}),
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
    """Writes middle_k.svg, the learning curves, and middle_k_behind.svg, those beside LoRA's."""
    tasks = told["tasks"]
    for what, file, label in (
        ("curve", "middle_k.svg", "training loss, nats per token"),
        ("behind", "middle_k_behind.svg", "training loss minus LoRA's"),
    ):
        figure, axes = drawing.panels(len(tasks), width=3.6)
        for axis, (name, task) in zip(axes, tasks.items(), strict=True):
            for arm in (arm for arm in LABELS if arm in task["arms"]):
                curve = figures.points(task["arms"][arm][what])
                steps = [told["bin_steps"] * (place + 0.5) for place in range(len(curve))]
                drawing.draw_line(axis, steps, curve, LABELS[arm])
            axis.set(title=f"base → {name}", xlabel="step")
            if what == "behind":
                axis.set_ylim(-0.2, 0.3)  # Beyond it: the first 50 steps.
        axes[0].set_ylabel(label)
        axes[0].legend(fontsize=7)
        drawing.save(figure, folder / file)


STUDY = Study("middle_k", FULL, QUICK, measure, draw)

if __name__ == "__main__":
    STUDY.run()
