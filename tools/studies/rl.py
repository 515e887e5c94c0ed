"""Is a change of weights by reinforcement learning like that of supervised training, and why?

Three models are trained from each of several supervised starts, with the same questions, optimiser
and number of steps: `rl` on the answers it samples, by their reward; `rejection` on the right ones
of these answers; `supervised` on given solutions. What changed from `base` and from the start is
described by size, place in base's spectrum, concentration, weights that bfloat16 shows unchanged,
scaling and co-rotation; beside it stand the controls' changes made as large as that of `rl`, and
noise. The first seed's `rl` and `rejection` are the shipped ones.

    python -m tools.studies.rl

About 40 minutes on one core; `--quick` a minute, most of it compiling.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from tools.reference.recipes import RECIPES
from tools.studies import rl_change as changes
from tools.studies import rl_training as models
from tools.studies.rl_figures import draw, summarise
from tools.studies.rl_training import ARMS, Run, Training
from tools.studies.study import Runs, Study

SHIPPED = ("instruct", "reasoning")
ORIGINS = ("base", "start")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the study.

    Attributes:
        seeds: One start and one model of each arm per seed.
        training: How they are trained.
    """

    seeds: tuple[int, ...]
    training: Training


FULL = Settings((25, 26, 27), Training("base", 150, RECIPES["rl"].steps, 128, 1.0, 450))
# Two steps teach base nothing that a reward could find; the shipped model is right at once.
QUICK = Settings((1, 2), Training("instruct", 1, 2, 16, 1.5, 8))


class Models(NamedTuple):
    """The trained models of a seed, all of a study's seeds, and where they lie."""

    seed: int
    seeds: tuple[int, ...]
    training: Training
    folder: pathlib.Path


def measure(settings: Settings, runs: Runs) -> dict[str, Any]:
    """Trains the models, then describes what changed in them."""
    trained: dict[str, Any] = {}
    # The answers that `rl` sampled are the data of `rejection`.
    for arms in (("start",), ("rl",), ("rejection", "supervised")):
        items = {
            f"train/{arm}-{seed}": Run(arm, seed, settings.training, runs.folder)
            for seed in settings.seeds
            for arm in arms
        }
        trained |= runs.spread(models.train_run, items)
    given = {
        f"change/{seed}": Models(seed, settings.seeds, settings.training, runs.folder)
        for seed in settings.seeds
    }
    described = runs.spread(describe_seed, given)
    shipped = runs.spread(describe_shipped, {f"shipped/{name}": name for name in SHIPPED})
    figures = summarise(
        {name.removeprefix("train/"): value for name, value in trained.items()},
        [described[f"change/{seed}"] for seed in settings.seeds],
        {name.removeprefix("shipped/"): value for name, value in shipped.items()},
        settings.seeds,
    )
    return figures | {"minutes": models.training_minutes(runs.folder)}


def describe_seed(given: Models) -> dict[str, Any]:
    """The changes of a seed's models and controls, from base and from the start; their cosines."""
    base = models.shipped_matrices(given.training.parent)
    ends = {arm: models.load_weights(given.folder, arm, given.seed) for arm in ("start", *ARMS)}
    frames = changes.frames(base)
    result: dict[str, Any] = {}
    for origin in ORIGINS:
        start = base if origin == "base" else ends["start"]
        result[origin] = {
            name: changes.describe(frames, start, end)
            for name, end in _ends(start, ends, given.seed).items()
        }
    result["base"]["start"] = changes.describe(frames, base, ends["start"])
    run = Run("rl", given.seed, given.training, given.folder)
    result["solution_share"] = models.solution_share(run)
    return result | {"cosines": _cosines(given, base, ends)}


def _ends(start: Any, ends: dict[str, Any], seed: int) -> dict[str, Any]:
    """The arms as they ended, and what they and noise would be at the size of the change by rl."""
    moved = {arm: changes.delta(start, ends[arm]) for arm in ARMS}
    sized = {f"{arm} sized": changes.resized(moved[arm], moved["rl"]) for arm in ARMS[1:]}
    sized["noise"] = changes.noise(moved["rl"], seed)
    return {
        **{arm: ends[arm] for arm in ARMS},
        **{name: changes.added(start, change) for name, change in sized.items()},
    }


def _cosines(given: Models, base: Any, ends: dict[str, Any]) -> dict[str, float]:
    """Cosines of the changes since the start: between arms, and with the start's own change.

    `other seed` is that of rl with rl of the next seed, which shares nothing but base and task.
    """
    moved = {arm: changes.delta(ends["start"], ends[arm]) for arm in ARMS}
    result = {
        f"{one} {other}": changes.cosine(moved[one], moved[other]) for one, other in _pairs(ARMS)
    }
    own = changes.delta(base, ends["start"])
    result |= {f"start {arm}": changes.cosine(own, moved[arm]) for arm in ARMS}
    following = given.seeds[(given.seeds.index(given.seed) + 1) % len(given.seeds)]
    other = changes.delta(
        models.load_weights(given.folder, "start", following),
        models.load_weights(given.folder, "rl", following),
    )
    return result | {"other seed": changes.cosine(moved["rl"], other)}


def _pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    return [(one, other) for at, one in enumerate(names) for other in names[at + 1 :]]


def describe_shipped(name: str) -> dict[str, float]:
    """The change from base to a shipped member of the family."""
    base = models.shipped_matrices("base")
    return changes.describe(changes.frames(base), base, models.shipped_matrices(name))


STUDY = Study("rl", FULL, QUICK, measure, draw)

if __name__ == "__main__":
    STUDY.run()
