"""The temperature stage: the models of every pair at every point of the grid.

Every point is a unit of work, journaled by the digest of its inputs as soon as it is measured: a
checkpoint that several pairs share is measured once, and a sweep that was killed redoes the point
in flight. It takes the memory of two models in the decoder's dtype, for loss and KL in float32.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from svdjax.atomic import plain, write_json
from svdjax.checkpoint import digest_of, model_config
from svdjax.construct.contract import parameter_count
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import note
from svdjax.engine.work.unit import Check, Piece, Unit
from svdjax.evaluate.benchmarks import Grader
from svdjax.evaluate.inputs import EvalInputs
from svdjax.model.scaling import without_effect
from svdjax.temperature.measures import (
    Measures,
    Metrics,
    Preparation,
    Target,
    arrays_of,
)
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
    with context.journal(_JOURNAL):
        work = TemperatureWork(jobs, plans, inputs, context)
        return context.pair_by_pair(jobs, TemperatureResults.load, work)


class _Task(NamedTuple):
    """A measure of a model of a pair at a point."""

    pair: str
    target: str
    measure: str
    point: Point


@dataclass
class _Progress:
    """How far a measure of a model is.

    Attributes:
        label: The model and measure.
        points: How many there are in all.
        missing: How many the journal lacked.
        left: Keys of those that it lacks.
        seconds: Of those that were measured.
    """

    label: str
    points: int
    missing: int
    left: set[str]
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """How many were measured."""
        return self.missing - len(self.left)


class TemperatureWork:
    """What computes the points of pairs; see `svdjax.engine.context.StageWork`.

    The model of the last unit stays on the devices until a unit of another model or measure comes.
    """

    name, reads_ahead = "temperature", False

    def __init__(
        self,
        jobs: Sequence[PairJob],
        plans: Mapping[str, Plan],
        inputs: EvalInputs | None,
        context: Context,
    ):
        """Arguments as of `run_temperature`."""
        self._jobs = {job.spec.name: job for job in jobs}
        self._plans, self._inputs, self._context = plans, inputs, context
        self._journal = context.workdir / _JOURNAL
        self._pair = functools.cache(self._new_pair)
        self._grader: Callable[[], Grader] = Grader
        self._progress: dict[Hashable, _Progress] = {}
        self._told, self._logged = set[str](), time.perf_counter()

    def units(self, job: PairJob) -> list[Unit]:
        """The points of a pair's models that the journal lacks."""
        pair, units = self._pair(job.spec.name), []
        for (target, measure), preparation in pair.measures.items():
            label = f"{pair.name} {target} {measure}"
            parameters = parameter_count(pair.targets[target].checkpoint)
            points = pair.points(measure)
            missing = [
                Unit(
                    key=_key(preparation, point),
                    label=f"temperature of {label} {_words(point)}",
                    task=_Task(pair.name, target, measure, point),
                    cost=2.0 * parameters * preparation.tokens,
                    affinity=preparation.key,
                )
                for point in points
                if self._read(_key(preparation, point)) is None
            ]
            keys = {unit.key for unit in missing}
            progress = _Progress(label, len(points), len(missing), keys)
            self._progress[preparation.key] = progress
            units += missing
        return units

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Yields metrics of each point, and the seconds that they took."""
        self._journal.mkdir(parents=True, exist_ok=True)  # for answers to the questions of a point
        prepared, measure = "", None
        with contextlib.ExitStack() as stack:
            self._grader = functools.cache(lambda: stack.enter_context(Grader()))
            for unit in units:
                task, began = unit.task, time.perf_counter()
                label = f"{task.pair} {task.target} {task.measure}"
                check(self._so_far(unit, label))
                if measure is None or prepared != unit.affinity:
                    measure = None  # off the devices, before the next model is put there
                    preparation = self._pair(task.pair).measures[task.target, task.measure]
                    prepared, measure = preparation.key, preparation.prepare()
                metrics = plain(measure(task.point, f"{label} {_words(task.point)}"))
                yield Piece(unit, (metrics, time.perf_counter() - began))

    def keep(self, piece: Piece) -> str:
        """Journals a point."""
        metrics, seconds = piece.value
        write_json(self._journal / f"{piece.unit.key}.json", {"found": metrics})
        progress, now = self._progress[piece.unit.affinity], time.perf_counter()
        progress.left.discard(piece.unit.key)
        progress.seconds += seconds
        if not progress.left:
            self._told.add(progress.label)
            points = f"{progress.points} points ({progress.seconds:.2f} s)"
            return f"tempered {progress.label}: {points}"
        if now - self._logged <= _LOG_SECONDS:
            return ""
        self._logged = now
        return f"tempered {progress.label}: {progress.done} of {progress.missing} points"

    def results(self, job: PairJob) -> TemperatureResults:
        """The points of a pair out of the journal, saved."""
        pair, values, notes = self._pair(job.spec.name), {}, []
        left_out = dict(pair.plan.left_out)
        for target in pair.targets.values():
            metrics: dict[str, dict[Point, Metrics]] = {}
            for (name, measure), preparation in pair.measures.items():
                if name != target.name:
                    continue
                points = pair.points(measure)
                read = {point: self._read(_key(preparation, point)) for point in points}
                metrics[measure] = {
                    point: found for point, found in read.items() if found is not None
                }
                label = f"{pair.name} {name} {measure}"
                if label not in self._told:
                    note(f"tempered {label}: {len(points)} points already")
            arrays = arrays_of(pair.plan, metrics)
            values |= {f"{target.name}/{name}": array for name, array in arrays.items()}
            why = pair.why_no_loss(target)
            if why and "loss" not in left_out:
                left_out[f"loss of {target.name}"] = why
            notes += pair.notes(target)
        results = pair.results(values, left_out, list(dict.fromkeys(notes)))
        results.save(self._context.workdir / pair.name)
        return results

    def _new_pair(self, name: str) -> _Pair:
        measures = Measures(self._plans[name], self._context, self._journal, lambda: self._grader())
        return _Pair(self._jobs[name], self._inputs, measures)

    def _so_far(self, unit: Unit, label: str) -> str:
        """How far a measure is, where this process counts."""
        progress = self._progress.get(unit.affinity)
        if progress is None:
            return unit.label
        return f"temperature of {label}: {progress.done} of {progress.missing} points done"

    def _read(self, key: str) -> Metrics | None:
        """Metrics of a point that was journaled."""
        try:
            return json.loads((self._journal / f"{key}.json").read_text("utf-8"))["found"]
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _key(preparation: Preparation, point: Point) -> str:
    """Name of a point in the journal."""
    return digest_of([preparation.key, point])


def _words(point: Point) -> str:
    layer = f" layer {point.layer}" if point.layer >= 0 else ""
    return f"{point.projection or 'unscaled'}{layer} x {point.factor:g}"


class _Pair:
    """The models of one pair, and what is measured of each."""

    def __init__(self, job: PairJob, inputs: EvalInputs | None, measures: Measures):
        self.job, self.inputs, self.name = job, inputs, job.spec.name
        self.plan, self.context = measures.plan, measures.context
        self.options, self.why_no_loss = self.context.settings.temperature, measures.why_no_loss
        self.targets = {name: self._target(name) for name in self.options.models}
        self.measures = {
            (target.name, measure): preparation
            for target in self.targets.values()
            for measure, preparation in measures.of(target).items()
        }

    def points(self, measure: str) -> list[Point]:
        """The points at which something is measured."""
        asked = measure == "answers"
        points = self.plan.grid.points()
        return [p for p in points if not asked or self.plan.asks(p, self.options)]

    def results(
        self, values: Mapping[str, np.ndarray], left_out: Mapping[str, str], notes: list[str]
    ) -> TemperatureResults:
        """Results of the pair."""
        return TemperatureResults(
            pair=self.name,
            models=list(self.targets),
            projections=list(self.plan.grid.projections),
            layers=list(self.plan.grid.layers),
            factors=list(self.plan.grid.factors),
            data=self._data(),
            settings=self._settings(),
            values=values,
            left_out=left_out,
            notes=notes,
        )

    def _target(self, name: str) -> Target:
        plan, identity = self.job.plan, self.context.identity
        checkpoint = plan.post if name == "post" else plan.base
        source = getattr(self.job.spec, name)
        readers = self.inputs.readers[self.job.spec.name] if self.inputs else {}
        return Target(
            name=name,
            checkpoint=checkpoint,
            config=model_config(checkpoint),
            weights=digest_of([identity["inputs"][source], identity["versions"]]),
            reader=readers.get(name),
        )

    def notes(self, target: Target) -> list[str]:
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
