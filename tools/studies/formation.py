"""When singular vectors and spectra settle in training, and whether from the top down.

    python -m tools.studies.formation

`base`, and from the shipped `base` `instruct` and `reasoning`, are trained again with kept steps,
and with three seeds each on short schedules; `rl` with three seeds as it is. At every kept step
each matrix is compared with what it ends as, by bands of singular components, and the same is
measured on paths that are no training (`formation_nulls`). Two hours of one busy core, nearly half
of them for `base`.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.studies import drawing, formation_courses
from tools.studies.formation_analysis import Analysis, across, analyse, kinds_of
from tools.studies.formation_courses import Course, recipe_of
from tools.studies.formation_figures import (
    PLOTTED,
    POST_PLOTTED,
    post_figures,
    seeds_figures,
    whole_figures,
)
from tools.studies.rl_training import Run, Training
from tools.studies.rl_training import recipe_of as policy_recipe_of
from tools.studies.statistics import interval
from tools.studies.study import Runs, Study


@dataclasses.dataclass(frozen=True)
class Plan:
    """Courses of one member of the family, a seed each.

    Attributes:
        steps: Steps of the schedule.
        seeds: Seeds of the courses.
        kept: Steps kept at the start, ascending from 0.
        spacing: Beyond them, every multiple of this is kept.
        rows: Sequences per step, where not the recipe's.
    """

    steps: int
    seeds: tuple[int, ...]
    kept: tuple[int, ...]
    spacing: int
    rows: int = 0

    def points(self) -> tuple[int, ...]:
        """All kept steps."""
        later = range(self.kept[-1] - self.kept[-1] % self.spacing, self.steps, self.spacing)
        return tuple(sorted({*self.kept, *later, self.steps}))


@dataclasses.dataclass(frozen=True)
class PolicyPlan:
    """Courses of `rl`, each from the end of its supervised start on.

    Attributes:
        training: As in the study `rl`.
        seeds: Seeds of the courses.
        every: Every multiple of this many steps is kept.
    """

    training: Training
    seeds: tuple[int, ...]
    every: int


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained.

    Attributes:
        whole: Steps of the whole training of `base`, with the first seed of its short ones.
        every: Its kept steps, beside those of the short one within the warm-up.
        courses: Short trainings by member.
        whole_post: Whole trainings of members that start from `base`, one seed each.
        policy: Trainings of `rl`; None: none of them.
        sizes: Sizes of the model, where they are not the family's; not of `rl`.
    """

    whole: int
    every: int
    courses: dict[str, Plan]
    whole_post: dict[str, Plan]
    policy: PolicyPlan | None
    sizes: dict[str, int]


EARLY = (0, 1, 2, 5, 10, 20)
FULL = Settings(
    whole=6400,
    every=320,
    courses={
        "base": Plan(600, (20, 120, 220), EARLY, 20),
        "instruct": Plan(300, (22, 122, 222), EARLY, 20),
        "reasoning": Plan(120, (23, 123, 223), (0, 1, 2, 5, 10), 10),
    },
    whole_post={
        "instruct": Plan(2000, (22,), EARLY, 100),
        "reasoning": Plan(1300, (23,), EARLY, 100),
    },
    policy=PolicyPlan(Training("base", 150, 120, 128, 1.0, 0), (25, 125, 225), 5),
    sizes={},
)
QUICK = Settings(
    whole=8,
    every=4,
    courses={
        "base": Plan(8, (20, 21), (0, 1, 2), 2, rows=2),
        "instruct": Plan(6, (20, 21), (0, 1, 2), 2, rows=2),
    },
    whole_post={"instruct": Plan(8, (20,), (0, 1, 2), 2, rows=2)},
    policy=None,
    sizes={"layers": 1, "hidden_size": 128, "intermediate_size": 144},
)


def measure(settings: Settings, runs: Runs) -> dict[str, Any]:
    """Trains all courses, analyses them, and gathers the figures of the page."""
    folder = (runs.folder / "training").resolve()
    short = courses_of(settings, str(folder))
    courses = {**short, "whole": whole_of(settings, short)}
    courses |= later_of(settings, str(folder))
    trained = runs.spread(formation_courses.run, {f"train/{name}": c for name, c in short.items()})
    trained |= runs.spread(
        formation_courses.run,
        {f"train/{name}": c for name, c in courses.items() if name not in short},
    )
    items = {
        f"analyse/{name}-{kind}": Analysis(course, tuple(trained[f"train/{name}"]["steps"]), kind)
        for name, course in courses.items()
        for kind in kinds_of(course)
    }
    done = runs.spread(analyse, items)
    found = {
        name: {kind: done[f"analyse/{name}-{kind}"] for kind in kinds_of(course)}
        for name, course in courses.items()
    }
    seeds = [short[f"base-{seed}"] for seed in settings.courses["base"].seeds]
    figures: dict[str, Any] = {
        "shipped": trained["train/whole"]["shipped"],
        "repeats": trained["train/whole"]["repeats"],
        "across": runs.spread(across, {"across/base": seeds})["across/base"],
        "whole": whole_figures(found["whole"], trained["train/whole"]["last_loss"]),
    }
    plans: dict[str, Plan | PolicyPlan] = {**settings.courses}
    if settings.policy:
        plans["rl"] = settings.policy
    for member, plan in plans.items():
        names = [f"{member}-{seed}" for seed in plan.seeds]
        losses = [trained[f"train/{name}"]["last_loss"] for name in names]
        figures[member] = seeds_figures([found[name] for name in names], losses)
    if settings.policy:
        rewards = [trained[f"train/rl-{seed}"]["rewards"] for seed in settings.policy.seeds]
        figures["rl"]["rewards"] = {
            name: interval([each[at] for each in rewards])
            for name, at in (("first", 0), ("last", -1))
        }
    figures["whole_post"] = {
        member: post_figures(found[f"whole-{member}"])
        | {key: trained[f"train/whole-{member}"][key] for key in ("last_loss", "shipped")}
        for member in settings.whole_post
    }
    return figures


def courses_of(settings: Settings, folder: str) -> dict[str, Course]:
    """The short courses, by member and seed."""
    courses = {}
    for member, plan in settings.courses.items():
        for seed in plan.seeds:
            recipe = recipe_of(member, seed, plan.steps, plan.rows)
            name = f"{member}-{seed}"
            courses[name] = Course(folder, name, recipe, plan.points(), settings.sizes)
    return courses


def whole_of(settings: Settings, short: dict[str, Course]) -> Course:
    """The whole training of `base`."""
    first = next(iter(short.values()))
    recipe = dataclasses.replace(first.recipe, steps=settings.whole)
    return Course(
        first.folder,
        "whole",
        recipe,
        sizes=settings.sizes,
        every=settings.every,
        early=str(first.path),
    )


def later_of(settings: Settings, folder: str) -> dict[str, Course]:
    """The trainings of `rl`, and the whole ones from `base`."""
    courses = policy_courses(settings.policy, folder) if settings.policy else {}
    for member, plan in settings.whole_post.items():
        recipe = recipe_of(member, plan.seeds[0], plan.steps, plan.rows)
        name = f"whole-{member}"
        courses[name] = Course(folder, name, recipe, plan.points(), settings.sizes)
    return courses


def policy_courses(plan: PolicyPlan, folder: str) -> dict[str, Course]:
    """The trainings of `rl`, by seed."""
    courses = {}
    for seed in plan.seeds:
        recipe = policy_recipe_of(Run("rl", seed, plan.training, pathlib.Path(folder)))
        recipe = dataclasses.replace(recipe, parent=plan.training.parent)
        name = f"rl-{seed}"
        courses[name] = Course(folder, name, recipe, every=plan.every)
    return courses


def draw(figures: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes the plots: bands over the steps, solid in training, dashed on the line."""
    whole = figures["whole"]
    figure, axes = drawing.panels(4)
    keys = {
        "formed": "content of the last matrix's bands",
        "vector": "overlap with the last vectors",
        "log_ratio": "ln of singular values over last",
    }
    for axis, (key, title) in zip(axes, keys.items(), strict=False):
        _draw_bands(axis, whole["steps"], whole["series"], key)
        axis.set_xscale("symlog", linthresh=10)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("step")
    axes[0].legend(fontsize=7)
    shape = whole["shape"]
    for key, label in (
        ("effective_rank", "effective rank / R"),
        ("participation", "participation ratio / R"),
        ("left", "distance left"),
    ):
        axes[3].plot(whole["steps"], shape[key], linewidth=1.2, label=label)
    axes[3].set_xscale("symlog", linthresh=10)
    axes[3].set_title("shape of the spectra", fontsize=9)
    axes[3].set_xlabel("step")
    axes[3].legend(fontsize=7)
    drawing.save(figure, folder / "formation.svg")
    members = [name for name in ("instruct", "reasoning", "rl") if name in figures]
    figure, axes = drawing.panels(2 * len(members), rows=len(members))
    pairs = [(name, key) for name in members for key in POST_PLOTTED]
    for axis, (name, key) in zip(axes, pairs, strict=True):
        found = figures[name]
        series = {
            kind: {key: {b: np.divide(v, v[-1]) for b, v in each[key].items()}}
            for kind, each in found["series"].items()
        }
        _draw_bands(axis, found["steps"], series, key)
        axis.set_title(f"{name}: {POST_PLOTTED[key]}", fontsize=9)
        axis.set_xlabel("step")
    axes[0].legend(fontsize=7)
    drawing.save(figure, folder / "formation_post.svg")


def _draw_bands(axis: Any, steps: Sequence[int], series: Any, key: str) -> None:
    for number, band in enumerate(PLOTTED):
        for kind, style in (("training", "-"), ("line", "--")):
            axis.plot(
                steps,
                series[kind][key][band],
                style,
                color=f"C{number}",
                linewidth=1.2 if style == "-" else 0.9,
                label=band if style == "-" else None,
            )


STUDY = Study("formation", FULL, QUICK, measure, draw)

if __name__ == "__main__":
    STUDY.run()
