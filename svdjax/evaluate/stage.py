"""The evaluation stage: every model of every pair answers the benchmarks' questions.

Responses are journaled by what determines them, so that a checkpoint which several pairs share is
asked once, and a sweep that was killed loses none.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from svdjax.atomic import remove_leftovers
from svdjax.checkpoint import digest_of
from svdjax.construct.contract import parameter_count
from svdjax.construct.variant_builder import VariantBuilder, cached_builder
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import note
from svdjax.engine.work.unit import Check, Piece, Unit
from svdjax.evaluate.benchmarks import Grader
from svdjax.evaluate.evaluator import LOG_SECONDS, Evaluator, make_generator
from svdjax.evaluate.inputs import EvalInputs
from svdjax.evaluate.responses import (
    Key,
    Response,
    ResponseJournal,
    questions_digest,
    response_keys,
    statistics,
    write_responses,
)
from svdjax.evaluate.results import EvaluationResults, Score, responses_path
from svdjax.evaluate.targets import TargetModel, target_models
from svdjax.model import decoder_mesh
from svdjax.spectra.results import Comparison

_JOURNAL = ".evaluation"
# Options that do not change the responses, or that the questions' digest covers.
_NOT_IN_KEY = ("batch_size", "limit", "split")
_BATCHES = 4
"""Batches of a lot for another process, so that several can share the questions of a model.

While the last answers of a lot end, rows of the batch are idle: about half a batch of time, an
eighth of a lot. A larger lot takes longer than the minute or two that is lost with a worker, and in
which the others wait at the end.
"""


def run_evaluation(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    inputs: EvalInputs,
    context: Context,
) -> dict[str, EvaluationResults]:
    """Asks and grades the models of every pair; arguments and results as in `Stage.run`."""
    work = EvaluationWork(jobs, comparisons, inputs, context)
    with work.grader, context.journal(_JOURNAL):
        return context.pair_by_pair(jobs, EvaluationResults.load, work, shared=comparisons)


class Lot(NamedTuple):
    """Questions that a model is to answer.

    Attributes:
        pair: Name of the pair.
        model: Name of the model.
        benchmark: Name of the benchmark.
        journal: Digest of all that determines the responses.
        keys: Questions and repeats.
        whole: Whether these are all that the journal lacks.
    """

    pair: str
    model: str
    benchmark: str
    journal: str
    keys: tuple[Key, ...]
    whole: bool


class _Asked(NamedTuple):
    """A model, and the digests of its responses by benchmark."""

    model: TargetModel
    journals: Mapping[str, str]


class EvaluationWork:
    """What asks lots of questions; see `svdjax.engine.context.StageWork`.

    Attributes:
        grader: Of this process. Its own process ends with it at the latest, on a worker that is
            killed too.
    """

    name, reads_ahead = "evaluation", False

    def __init__(
        self,
        jobs: Sequence[PairJob],
        comparisons: Mapping[str, Comparison],
        inputs: EvalInputs,
        context: Context,
    ):
        """The arguments are those of `Stage.run`."""
        self.grader = Grader()
        self._jobs = {job.spec.name: job for job in jobs}
        self._comparisons, self._inputs, self._context = comparisons, inputs, context
        self._builder = cached_builder(context)
        self._folder = context.workdir / _JOURNAL
        self._options, self._decoder = context.settings.evaluation, context.settings.decoder
        self._settings: dict[str, Any] = {
            **asdict(self._options),
            "repeats": self._options.rounds,
            **asdict(self._decoder),
        }
        self._pairs: dict[str, list[_Asked]] = {}
        # How many responses journals lack, and models that were told of.
        self._missing: dict[str, int] = {}
        self._told: set[tuple[str, str]] = set()
        self._logged = time.perf_counter()

    def units(self, job: PairJob) -> list[Unit]:
        """Lots of a pair's models; one for a model and benchmark where this process computes."""
        name, units = job.spec.name, []
        for model, journals in self._asked(name):
            lots = [
                lot
                for benchmark in journals
                for lot in self._lots(name, model, benchmark, journals)
            ]
            parameters = parameter_count(model.reader.checkpoint)
            answers = sum(len(lot.keys) for lot in lots)
            units += [
                Unit(
                    key=f"{lot.journal} {lot.keys[0]}",
                    label=f"{name} {model.name} {lot.benchmark}",
                    task=lot,
                    # Of one for others that of its model, whose lots then follow each other: its
                    # weights are made once.
                    cost=parameters * (len(lot.keys) if lot.whole else answers),
                    affinity=model.weights,
                )
                for lot in lots
            ]
        for line in self._complete(name):
            note(line)
        return units

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Yields graded responses as they come."""
        mesh = decoder_mesh(self._context.settings.devices, self._decoder.tensor_parallel)
        pair, models, loaded, generator = "", {}, None, None
        for unit in units:
            lot: Lot = unit.task
            if lot.pair != pair:
                pair, models = lot.pair, {each.name: each for each in self._targets(lot.pair)}
            model, number = models[lot.model], list(models).index(lot.model)
            check(f"evaluation of {pair}: {number} of {len(models)} done")
            chat = model.reader.chat
            if generator is None or loaded != (model.weights, chat.stop_tokens):
                generator = None  # gone, and off the devices, before the next is put there
                generator = make_generator(
                    model.load(), chat, self._options, mesh=mesh, dtype=self._decoder.dtype
                )
                loaded = model.weights, chat.stop_tokens
            questions = self._inputs.questions[lot.benchmark]
            prompts = model.reader.questions[lot.benchmark]
            evaluator = Evaluator(chat, questions, prompts, self.grader, self._options, unit.label)
            for graded in evaluator.generate(generator, lot.keys, check, quiet=True):
                yield Piece(unit, graded, last=False, share=len(graded) / len(lot.keys))
            yield Piece(unit, [], share=0.0)

    def keep(self, piece: Piece) -> str:
        """Adds responses to their journal."""
        lot: Lot = piece.unit.task
        ResponseJournal(self._folder / f"{lot.journal}.jsonl").append(piece.value)
        self._missing[lot.journal] -= len(piece.value)
        if piece.last and (complete := self._complete(lot.pair)):
            for line in complete[:-1]:
                note(line)
            return complete[-1]
        now, missing = time.perf_counter(), self._missing[lot.journal]
        if not missing or now - self._logged <= LOG_SECONDS:
            return ""
        self._logged = now
        total = len(self._keys(lot.benchmark))
        return f"{piece.unit.label}: {total - missing} of {total} answers"

    def results(self, job: PairJob) -> EvaluationResults:
        """Scores of a pair's models; their responses are written."""
        name, scores = job.spec.name, {}
        for model, journals in self._asked(name):
            scores[model.name] = {}
            for benchmark, journal in journals.items():
                responses = self._responses(benchmark, journal)
                path = responses_path(self._context.workdir / name, benchmark, model.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers([path.parent])
                write_responses(path, responses)
                scores[model.name][benchmark] = self._score(responses)
        models = [model for model, _ in self._asked(name)]
        notes = [model.reader.note for model in models if model.reader.note]
        results = EvaluationResults(
            pair=name,
            benchmarks=self._context.settings.benchmarks.given,
            settings=self._settings,
            scores=scores,
            titles={model.name: model.title for model in models},
            notes=list(dict.fromkeys(notes)),
        )
        results.save(self._context.workdir / name)
        return results

    def _targets(self, pair: str) -> list[TargetModel]:
        """The models of a pair; what they load stays with them."""
        variants = VariantBuilder(
            self._jobs[pair], self._comparisons[pair], self._builder, self._context
        )
        return target_models(variants, self._inputs, self._context, controls=True)

    def _asked(self, pair: str) -> list[_Asked]:
        """The models of a pair with the digests of their responses; they are not loaded."""
        if pair not in self._pairs:
            self._pairs[pair] = [
                _Asked(model, {each: self._digest(model, each) for each in self._inputs.questions})
                for model in self._targets(pair)
            ]
        return self._pairs[pair]

    def _digest(self, model: TargetModel, benchmark: str) -> str:
        """Digest of all that determines a model's responses to a benchmark."""
        return digest_of(
            [
                model.weights,
                questions_digest(self._inputs.questions[benchmark]),
                [prompt.tokens for prompt in model.reader.questions[benchmark][0]],
                sorted(model.reader.chat.stop_tokens),
                {k: v for k, v in self._settings.items() if k not in _NOT_IN_KEY},
            ]
        )

    def _lots(
        self, pair: str, model: TargetModel, benchmark: str, journals: Mapping[str, str]
    ) -> list[Lot]:
        """What a journal lacks, in lots of about one size."""
        journal = journals[benchmark]
        present = ResponseJournal(self._folder / f"{journal}.jsonl").read()
        keys = [key for key in self._keys(benchmark) if key not in present]
        self._missing[journal] = len(keys)
        remote = self._context.workers.remote
        most = _BATCHES * self._options.batch_size
        count = -(-len(keys) // most) if remote else min(1, len(keys))
        cuts = [len(keys) * number // max(1, count) for number in range(count + 1)]
        return [
            Lot(pair, model.name, benchmark, journal, tuple(keys[start:stop]), not remote)
            for start, stop in itertools.pairwise(cuts)
        ]

    def _keys(self, benchmark: str) -> list[Key]:
        return response_keys(self._inputs.questions[benchmark], self._options.rounds)

    def _responses(self, benchmark: str, journal: str) -> list[Response]:
        """The responses that a journal holds, in the order of the questions."""
        responses = ResponseJournal(self._folder / f"{journal}.jsonl").read()
        return [responses[key] for key in self._keys(benchmark)]

    def _score(self, responses: Sequence[Response]) -> Score:
        summary = statistics(responses, self._options.rounds)
        return Score(**{name: summary[name] for name in Score.__dataclass_fields__})

    def _complete(self, pair: str) -> list[str]:
        """Lines on the pair's models whose responses have become complete."""
        asked, lines = self._asked(pair), []
        for number, (model, journals) in enumerate(asked, 1):
            if (pair, model.name) in self._told or any(map(self._missing.get, journals.values())):
                continue
            self._told.add((pair, model.name))
            scores = {
                benchmark: self._score(self._responses(benchmark, journal))
                for benchmark, journal in journals.items()
            }
            summary = ", ".join(
                f"{benchmark} {score.accuracy_mean:.1f} %, {score.tokens_mean:.0f} tokens"
                for benchmark, score in scores.items()
            )
            lines.append(f"evaluated {number}/{len(asked)} {pair} {model.name} ({summary})")
        return lines
