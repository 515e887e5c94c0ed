"""The temperature stage: the models of every pair at every point of the grid.

Every point is journaled by what determines its numbers as soon as it is measured: a checkpoint that
several pairs share is measured once, and a sweep that was killed redoes the point in flight. It
takes the memory of two models in the decoder's dtype, for loss and KL in float32.
"""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from svdjax.atomic import plain, write_json
from svdjax.checkpoint import digest_of, model_config
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import duration, note
from svdjax.evaluate.benchmarks import Grader
from svdjax.evaluate.inputs import EvalInputs
from svdjax.model.scaling import without_effect
from svdjax.temperature.measures import Found, Measure, Measures, Target, arrays_of
from svdjax.temperature.options import GROUPS
from svdjax.temperature.plan import Plan, Point
from svdjax.temperature.results import TemperatureResults

_JOURNAL = ".temperature"
# Seconds between two lines of progress.
_EVERY = 10.0


def run_temperature(
    jobs: Sequence[PairJob],
    plans: Mapping[str, Plan],
    material: EvalInputs | None,
    stage: Context,
) -> dict[str, TemperatureResults]:
    """Scales the singular values of the models of every pair, and measures what that does.

    Args:
        jobs: The validated pairs.
        plans: What is done to each, by name.
        material: Prompts and questions, where there are any.
        stage: See there.

    Returns:
        The results by pair, in the order of `jobs`.
    """
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(stage.journal(_JOURNAL))
        graders: list[Grader] = []

        def grader() -> Grader:
            if not graders:
                graders.append(stack.enter_context(Grader()))
            return graders[0]

        def make(job: PairJob) -> TemperatureResults:
            plan = plans[job.spec.name]
            results = _Pair(job, material, Measures(plan, stage, journal, grader)).run()
            results.save(stage.workdir / job.spec.name)
            return results

        return stage.pair_by_pair(jobs, TemperatureResults.load, make)


class _Pair:
    """The models of one pair."""

    def __init__(self, job: PairJob, material: EvalInputs | None, measures: Measures):
        self.job, self.material, self.measures = job, material, measures
        self.plan, self.stage = measures.plan, measures.stage
        self.how = self.stage.settings.temperature

    def run(self) -> TemperatureResults:
        targets = [self._target(name) for name in self.how.models]
        values, left_out, notes = {}, dict(self.plan.left_out), []
        for target in targets:
            found = {
                name: self._points(target, name, key, prepare)
                for name, (key, prepare) in self.measures.of(target).items()
            }
            made = arrays_of(self.plan, found)
            values |= {f"{target.name}/{name}": array for name, array in made.items()}
            why = self.measures.why_no_loss(target)
            if why and "loss" not in left_out:
                left_out[f"loss of {target.name}"] = why
            notes += self._notes(target)
        return TemperatureResults(
            pair=self.job.spec.name,
            models=[target.name for target in targets],
            projections=list(self.plan.grid.projections),
            layers=list(self.plan.grid.layers),
            factors=list(self.plan.grid.factors),
            data=self._data(),
            settings=self._settings(),
            values=values,
            left_out=left_out,
            notes=list(dict.fromkeys(notes)),
        )

    def _target(self, name: str) -> Target:
        plan, identity = self.job.plan, self.stage.identity
        checkpoint = plan.post if name == "post" else plan.base
        source = getattr(self.job.spec, name)
        readers = self.material.readers[self.job.spec.name] if self.material else {}
        return Target(
            name=name,
            checkpoint=checkpoint,
            config=model_config(checkpoint.home),
            weights=digest_of([identity["inputs"][source], identity["versions"]]),
            reader=readers.get(name),
        )

    def _points(
        self, target: Target, name: str, key: str, prepare: Callable[[], Measure]
    ) -> dict[Point, Found]:
        """All points of one measure; those that the journal lacks are measured and kept there."""
        points = [
            point
            for point in self.plan.grid.points()
            if name != "answers" or self.plan.asks(point, self.how)
        ]
        paths = {
            point: self.measures.journal / f"{digest_of([key, point])}.json" for point in points
        }
        found = {point: kept for point in points if (kept := _read(paths[point])) is not None}
        missing = [point for point in points if point not in found]
        label = f"{self.job.spec.name} {target.name} {name}"
        measure: Measure | None = None
        began = said = time.perf_counter()
        for number, point in enumerate(missing, 1):
            self.stage.check(f"temperature of {label}: {number - 1} of {len(missing)} points done")
            if measure is None:
                measure = prepare()
            made = measure(point, f"{label} {_said(point)}")
            write_json(paths[point], {"found": made})
            # As a restarted sweep would read it.
            found[point] = plain(made)
            now = time.perf_counter()
            if now - said > _EVERY and number < len(missing):
                said = now
                left = duration((now - began) / number * (len(missing) - number))
                note(f"tempered {label}: {number} of {len(missing)} points, {left} left")
        took = f" ({time.perf_counter() - began:.2f} s)" if missing else " already"
        note(f"tempered {label}: {len(points)} points{took}")
        return found

    def _notes(self, target: Target) -> list[str]:
        """What is to be known of a model, so that nobody reads more into its numbers."""
        config, notes = target.config, []
        for name in self.plan.grid.projections:
            parts = GROUPS[name]
            why = without_effect(config, parts)
            if why:
                notes.append(
                    f"{name} of {target.name}: a norm takes the scale out of {why} again, so that "
                    "scaling changes nothing but what its epsilon and rounding leave."
                )
                continue
            if not set(parts) <= {"q_proj", "k_proj"}:
                continue
            if target.differs_from_temperature(name):
                notes.append(
                    f"{name} of {target.name}: singular values are those of the kernels, and the "
                    "biases stay as they are; with them scaled too it would be a temperature "
                    "exactly, whose entropy stands beside (temperature_last, temperature_mean)."
                )
            if config.attn_logit_softcap is not None:
                notes.append(
                    f"{name} of {target.name}: the temperature acts before the soft-capping of "
                    "the attention scores."
                )
        return notes

    def _data(self) -> dict[str, Any]:
        rows = self.plan.rows
        return {
            "text": self.plan.path,
            "texts": 0 if rows is None else len(rows.tokens),
            "tokens": 0 if rows is None else rows.targets,
            "prompts_file": self.stage.settings.probes.prompts if self.plan.prompts else "",
            "prompts": self.plan.prompts,
            "questions": {name: len(some) for name, some in self.plan.questions.items()},
        }

    def _settings(self) -> dict[str, Any]:
        settings = self.stage.settings
        decoder = {k: v for k, v in asdict(settings.decoder).items() if k != "devices"}
        return {**asdict(self.how), **decoder, "max_new_tokens": settings.evaluation.max_new_tokens}


def _read(path: pathlib.Path) -> Found | None:
    """A point that an earlier run has measured."""
    try:
        return json.loads(path.read_text("utf-8"))["found"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _said(point: Point) -> str:
    where = f" layer {point.layer}" if point.layer >= 0 else ""
    return f"{point.projection or 'unscaled'}{where} x {point.factor:g}"
