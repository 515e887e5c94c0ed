"""When singular vectors and spectra settle in training, and whether from the top down.

    python -m tools.studies.formation

`base` is trained again with kept steps, and with other seeds on a short schedule; `instruct` and
`reasoning` are trained from the shipped `base`, three seeds each. At every kept step each matrix is
compared with what it ends as, by bands of singular components, and the same is measured on paths
that are no training (`formation_nulls`). Some 80 minutes on one core, of which 50 train `base`.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.studies import drawing, formation_courses
from tools.studies.formation_analysis import Analysis, across, analyse
from tools.studies.formation_courses import Course, recipe_of
from tools.studies.formation_figures import (
    PLOTTED,
    POST_PLOTTED,
    seeds_figures,
    whole_figures,
)
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

    def points(self, stop: int = 0) -> tuple[int, ...]:
        """All kept steps, to the end or to `stop`."""
        stop = stop or self.steps
        later = range(self.kept[-1] - self.kept[-1] % self.spacing, stop + 1, self.spacing)
        return tuple(sorted({*self.kept, *later, stop}))


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained.

    Attributes:
        every: Spacing of the kept steps of the whole training of `base`.
        base: The whole training; its own spacing holds up to the first step of `every`.
        courses: Short trainings by member.
        sizes: Sizes of the model, where they are not the family's.
    """

    every: int
    base: Plan
    courses: dict[str, Plan]
    sizes: dict[str, int]


EARLY = (0, 1, 2, 5, 10, 20)
FULL = Settings(
    every=320,
    base=Plan(6400, (20,), EARLY, 20),
    courses={
        "base": Plan(600, (20, 120, 220), EARLY, 20),
        "instruct": Plan(300, (22, 122, 222), EARLY, 20),
        "reasoning": Plan(120, (23, 123, 223), (0, 1, 2, 5, 10), 10),
    },
    sizes={},
)
QUICK = Settings(
    every=4,
    base=Plan(12, (20,), (0, 1, 2), 2, rows=2),
    courses={
        "base": Plan(6, (20, 21), (0, 1, 2), 2, rows=2),
        "instruct": Plan(6, (20, 21), (0, 1, 2), 2, rows=2),
    },
    sizes={"layers": 1, "hidden_size": 128, "intermediate_size": 144},
)


def measure(settings: Settings, runs: Runs) -> dict[str, Any]:
    """Trains all courses, analyses them, and gathers the figures of the page."""
    items = _courses(settings, str((runs.folder / "training").resolve()))
    trained = runs.spread(
        formation_courses.run, {f"train/{name}": course for name, course in items.items()}
    )
    found = runs.spread(
        analyse,
        {
            f"analyse/{name}": Analysis(course, tuple(trained[f"train/{name}"]["steps"]))
            for name, course in items.items()
        },
    )
    seeds = [items[f"base-{seed}"] for seed in settings.courses["base"].seeds]
    whole = found["analyse/base-whole"]
    figures: dict[str, Any] = {
        "shipped": trained["train/base-whole"]["shipped"],
        "repeats": trained["train/base-whole"]["repeats"],
        "across": runs.spread(across, {"across/base": seeds})["across/base"],
        "whole": whole_figures(whole, trained["train/base-whole"]["losses"]),
    }
    for member, plan in settings.courses.items():
        names = [f"{member}-{seed}" for seed in plan.seeds]
        figures[member] = seeds_figures(
            [found[f"analyse/{name}"] for name in names],
            [trained[f"train/{name}"]["losses"] for name in names],
        )
    return figures


def _courses(settings: Settings, folder: str) -> dict[str, Course]:
    courses = {}
    for member, plan in settings.courses.items():
        for seed in plan.seeds:
            name = f"{member}-{seed}"
            recipe = recipe_of(member, seed, plan.steps, plan.rows)
            courses[name] = Course(folder, name, recipe, plan.points(), 0, settings.sizes)
    base = settings.base
    recipe = recipe_of("base", base.seeds[0], base.steps, base.rows)
    early = base.points(settings.every)
    courses["base-whole"] = Course(
        folder, "base-whole", recipe, early, settings.every, settings.sizes
    )
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
    figure, axes = drawing.panels(2 * len(members))
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
