"""The temperature stage: the models of every pair at every point of the grid.

Every point is journaled by the digest of its inputs as soon as it is measured: a checkpoint that
several pairs share is measured once, and a sweep that was killed redoes the point in flight. It
takes the memory of two models in the decoder's dtype, for loss and KL in float32.
"""

from __future__ import annotations

import contextlib
import functools
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
from svdjax.temperature.measures import Measure, Measures, Metrics, Target, arrays_of
from svdjax.temperature.options import GROUPS, is_temperature
from svdjax.temperature.plan import Plan, Point
from svdjax.temperature.results import TemperatureResults

_JOURNAL = ".temperature"
_LOG_SECONDS = 10.0


def run_temperature(
    jobs: Sequence[PairJob],
    plans: Mapping[str, Plan],
    inputs: EvalInputs | None,
    context: Context,
) -> dict[str, TemperatureResults]:
    """Scales the singular values of the models of every pair, and measures the effect.

    Args:
        jobs: The validated pairs.
        plans: Their plans, by name.
        inputs: Prompts and questions, where there are any.
        context: Context of the stage.
    """
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(context.journal(_JOURNAL))
        grader = functools.cache(lambda: stack.enter_context(Grader()))

        def make(job: PairJob) -> TemperatureResults:
            measures = Measures(plans[job.spec.name], context, journal, grader)
            results = _Pair(job, inputs, measures).run()
            results.save(context.workdir / job.spec.name)
            return results

        return context.pair_by_pair(jobs, TemperatureResults.load, make)


class _Pair:
    """The models of one pair."""

    def __init__(self, job: PairJob, inputs: EvalInputs | None, measures: Measures):
        self.job, self.inputs, self.measures = job, inputs, measures
        self.plan, self.context = measures.plan, measures.context
        self.options = self.context.settings.temperature

    def run(self) -> TemperatureResults:
        targets = [self._target(name) for name in self.options.models]
        values, left_out, notes = {}, dict(self.plan.left_out), []
        for target in targets:
            metrics = {
                name: self._points(target, name, key, prepare)
                for name, (key, prepare) in self.measures.of(target).items()
            }
            arrays = arrays_of(self.plan, metrics)
            values |= {f"{target.name}/{name}": array for name, array in arrays.items()}
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
        plan, identity = self.job.plan, self.context.identity
        checkpoint = plan.post if name == "post" else plan.base
        source = getattr(self.job.spec, name)
        readers = self.inputs.readers[self.job.spec.name] if self.inputs else {}
        return Target(
            name=name,
            checkpoint=checkpoint,
            config=model_config(checkpoint.home),
            weights=digest_of([identity["inputs"][source], identity["versions"]]),
            reader=readers.get(name),
        )

    def _points(
        self, target: Target, name: str, key: str, prepare: Callable[[], Measure]
    ) -> dict[Point, Metrics]:
        """Metrics of one measure by point; those that the journal lacks are measured and added."""
        points = [
            point
            for point in self.plan.grid.points()
            if name != "answers" or self.plan.asks(point, self.options)
        ]
        paths = {
            point: self.measures.journal / f"{digest_of([key, point])}.json" for point in points
        }
        metrics = {point: read for point in points if (read := _read(paths[point])) is not None}
        missing = [point for point in points if point not in metrics]
        label = f"{self.job.spec.name} {target.name} {name}"
        measure: Measure | None = None
        start = logged = time.perf_counter()
        for number, point in enumerate(missing, 1):
            self.context.check(
                f"temperature of {label}: {number - 1} of {len(missing)} points done"
            )
            if measure is None:
                measure = prepare()
            layer = f" layer {point.layer}" if point.layer >= 0 else ""
            point_label = f"{point.projection or 'unscaled'}{layer} x {point.factor:g}"
            # As a restarted sweep would read it.
            metrics[point] = plain(measure(point, f"{label} {point_label}"))
            write_json(paths[point], {"found": metrics[point]})
            now = time.perf_counter()
            if now - logged > _LOG_SECONDS and number < len(missing):
                logged = now
                left = duration((now - start) / number * (len(missing) - number))
                note(f"tempered {label}: {number} of {len(missing)} points, {left} left")
        took = f" ({time.perf_counter() - start:.2f} s)" if missing else " already"
        note(f"tempered {label}: {len(points)} points{took}")
        return metrics

    def _notes(self, target: Target) -> list[str]:
        """Remarks on a model's scaling that its numbers alone do not show."""
        config, notes = target.config, []
        for name in self.plan.grid.projections:
            why = without_effect(config, GROUPS[name])
            if why:
                notes.append(
                    f"{name} of {target.name}: a norm takes the scale out of {why} again, so that "
                    "scaling changes nothing but what its epsilon and rounding leave."
                )
                continue
            if not is_temperature(name):
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
            "prompts_file": self.context.settings.probes.prompts if self.plan.prompts else "",
            "prompts": self.plan.prompts,
            "questions": {name: len(each) for name, each in self.plan.questions.items()},
        }

    def _settings(self) -> dict[str, Any]:
        settings = self.context.settings
        limit = settings.evaluation.max_new_tokens
        return {**asdict(self.options), **asdict(settings.decoder), "max_new_tokens": limit}


def _read(path: pathlib.Path) -> Metrics | None:
    """Metrics of a point that an earlier run has measured."""
    try:
        return json.loads(path.read_text("utf-8"))["found"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
