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
from tools.studies.formation_measures import BANDS
from tools.studies.formation_nulls import KINDS
from tools.studies.statistics import interval
from tools.studies.study import Runs, Study

PLOTTED = ("first", "5 to 10 %", "25 to 50 %", "last 10 %")
COMPARED = ("top tenth", "lower half")
PLOTTED_SHAPES = ("effective_rank", "participation", "left")
POST_PLOTTED = {"rotation": "turn of base's vectors", "change": "content of the change's bands"}
SHOWN = (
    *("vector_90", "subspace_90", "formed_50", "formed_90", "spectrum_10"),
    *("rotation_half", "progress_half", "change_half", "scaling_half"),
)


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
        "whole": _whole(whole, trained["train/base-whole"]["losses"]),
    }
    for member, plan in settings.courses.items():
        names = [f"{member}-{seed}" for seed in plan.seeds]
        figures[member] = _over_seeds(
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


def _whole(found: dict[str, Any], losses: list[float]) -> dict[str, Any]:
    """Figures of the whole training: settling in steps, order in shares of the course."""
    last = found["steps"][-1]
    keys = list(found["training"]["settle"])
    shape = found["shape"]
    return {
        "steps": found["steps"],
        "last_loss": round(losses[-1], 4),
        "settle": {
            kind: {
                key: {b: round(last * float(np.mean(v))) for b, v in each.items()}
                for key, each in found[kind]["settle"].items()
            }
            for kind in ("training", "line")
        },
        "order": {
            key: {
                kind: round(float(np.mean(_order(found, kind, key))), 4)
                for kind in KINDS
                if key in found[kind]["settle"]
            }
            for key in keys
        },
        "lag": {
            band: {kind: round(float(np.mean(_lag(found, kind, band))), 4) for kind in KINDS}
            for band in COMPARED
        },
        # Of the matrices, the part where training is ordered more than the line.
        "beyond_line": {
            key: float(np.mean(_order(found, "training", key) > _order(found, "line", key)))
            for key in keys
        },
        "series": {
            kind: {
                key: {b: _rounded(found[kind]["series"][key][b]) for b in PLOTTED}
                for key in ("formed", "vector", "log_ratio")
            }
            for kind in ("training", "line")
        },
        "start": {
            key: {b: each[0] for b, each in found["training"]["series"][key].items()}
            for key in ("vector", "subspace", "content")
        },
        "shape": {
            key: _rounded(values if key in PLOTTED_SHAPES else _ends(values))
            for key, values in shape.items()
        },
    }


def _over_seeds(found: list[dict[str, Any]], losses: list[list[float]]) -> dict[str, Any]:
    """Figures of several seeds: intervals over them of each one's mean over the matrices."""
    kinds = [kind for kind in KINDS if kind in found[0]]
    keys = list(found[0]["training"]["settle"])

    def settle(kind: str, key: str, band: str) -> list[float]:
        return [float(np.mean(each[kind]["settle"][key][band])) for each in found]

    def settles(kind: str) -> Any:
        return found[0][kind]["settle"]

    def lag(kind: str, band: str) -> np.ndarray:
        return np.array([np.mean(_lag(each, kind, band)) for each in found])

    def order(kind: str, key: str) -> np.ndarray:
        return np.array([np.mean(_order(each, kind, key)) for each in found])

    return {
        "steps": found[0]["steps"],
        "last_loss": _interval([each[-1] for each in losses]),
        "settle": {
            kind: {
                key: {b: _interval(settle(kind, key, b)) for b in BANDS}
                for key in keys
                if key in SHOWN
            }
            for kind in ("training", "line")
        },
        # Positive: the lower half settles later than the top tenth.
        "order": {
            key: {kind: _interval(order(kind, key)) for kind in kinds if key in settles(kind)}
            for key in keys
        },
        "beyond": {
            key: {
                kind: _interval(order("training", key) - order(kind, key))
                for kind in kinds[1:]
                if key in settles(kind)
            }
            for key in keys
        },
        "lag": {band: {kind: _interval(lag(kind, band)) for kind in kinds} for band in COMPARED},
        "lag_beyond": {
            band: {kind: _interval(lag("training", band) - lag(kind, band)) for kind in kinds[1:]}
            for band in COMPARED
        },
        "series": {
            kind: {
                key: {
                    b: _rounded(np.mean([each[kind]["series"][key][b] for each in found], 0))
                    for b in PLOTTED
                }
                for key in POST_PLOTTED
                if key in found[0][kind]["series"]
            }
            for kind in ("training", "line")
        },
        "shape": {
            key: [
                _interval(values)
                for values in zip(*(_ends(each["shape"][key]) for each in found), strict=True)
            ]
            for key in found[0]["shape"]
        },
    }


def _order(found: dict[str, Any], kind: str, key: str) -> np.ndarray:
    """Settling of the lower half after that of the top tenth, in shares of the course, [M]."""
    settle = found[kind]["settle"][key]
    return np.array(settle["lower half"], float) - np.array(settle["top tenth"], float)


def _lag(found: dict[str, Any], kind: str, band: str) -> np.ndarray:
    """Settling of a band's vectors after that of its singular values, in shares of the course."""
    settle = found[kind]["settle"]
    vectors, values = (
        ("rotation_half", "scaling_half")
        if "rotation_half" in settle
        else ("vector_90", "spectrum_10")
    )
    return np.array(settle[vectors][band], float) - np.array(settle[values][band], float)


def _ends(values: Sequence[float]) -> list[float]:
    return [values[0], values[-1]]


def _interval(values: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """The interval of the kit, short enough for many of them."""
    found = interval(list(values))
    return {key: round(found[key], 4) for key in ("mean", "low", "high")}


def _rounded(values: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]


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
