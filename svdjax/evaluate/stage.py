"""The evaluation stage: every model of every pair answers the benchmarks' questions.

Responses are journaled by what determines them, so that a checkpoint which several pairs share is
asked once, and a sweep that was killed loses none.
"""

from __future__ import annotations

import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from svdjax.atomic import remove_leftovers
from svdjax.checkpoint import digest_of
from svdjax.construct.variant_builder import VariantBuilder, cached_builder
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import duration, note
from svdjax.evaluate.benchmarks import Grader
from svdjax.evaluate.evaluator import Evaluator, make_generator
from svdjax.evaluate.inputs import EvalInputs
from svdjax.evaluate.responses import (
    ResponseJournal,
    questions_digest,
    statistics,
    write_responses,
)
from svdjax.evaluate.results import EvaluationResults, Score, responses_path
from svdjax.evaluate.targets import TargetModel, target_models
from svdjax.model import Generator, decoder_mesh
from svdjax.spectra.results import Comparison

_JOURNAL = ".evaluation"
# Options that do not change the responses, or that the questions' digest covers.
_NOT_IN_KEY = ("batch_size", "limit", "split")


def run_evaluation(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    inputs: EvalInputs,
    context: Context,
) -> dict[str, EvaluationResults]:
    """Asks and grades the models of every pair; arguments and results as in `Stage.run`."""
    builder = cached_builder(context)
    with Grader() as grader, context.journal(_JOURNAL) as journal:
        evaluation = _Evaluation(inputs, context, grader, journal)

        def make(job: PairJob) -> EvaluationResults:
            comparison = comparisons[job.spec.name]
            return evaluation.pair(VariantBuilder(job, comparison, builder, context))

        return context.pair_by_pair(jobs, EvaluationResults.load, make)


class _Evaluation:
    """Evaluates the models of one pair after the other."""

    def __init__(self, inputs: EvalInputs, context: Context, grader: Grader, journal: pathlib.Path):
        self.inputs, self.context, self.grader, self.journal = inputs, context, grader, journal
        self.options, self.decoder = context.settings.evaluation, context.settings.decoder
        self.mesh = decoder_mesh(context.settings.devices, self.decoder.tensor_parallel)
        self.settings: dict[str, Any] = {
            **asdict(self.options),
            "repeats": self.options.rounds,
            **asdict(self.decoder),
        }

    def pair(self, variants: VariantBuilder) -> EvaluationResults:
        name = variants.job.spec.name
        models = target_models(variants, self.inputs, self.context, controls=True)
        scores: dict[str, dict[str, Score]] = {}
        seconds: list[float] = []
        for number, model in enumerate(models, 1):
            self.context.check(f"evaluation of {name}: {number - 1} of {len(models)} done")
            start = time.perf_counter()
            scores[model.name], new = self._scores(name, model)
            if new:
                seconds.append(time.perf_counter() - start)
            recent = seconds[-3:]
            left = duration(sum(recent) / max(1, len(recent)) * (len(models) - number))
            summary = ", ".join(
                f"{benchmark} {score.accuracy_mean:.1f} %, {score.tokens_mean:.0f} tokens"
                for benchmark, score in scores[model.name].items()
            )
            note(f"evaluated {number}/{len(models)} {name} {model.name} ({summary}; {left} left)")
        notes = [model.reader.note for model in models if model.reader.note]
        results = EvaluationResults(
            pair=name,
            benchmarks=self.context.settings.benchmarks.given,
            settings=self.settings,
            scores=scores,
            titles={model.name: model.title for model in models},
            notes=list(dict.fromkeys(notes)),
        )
        results.save(self.context.workdir / name)
        return results

    def _scores(self, pair: str, model: TargetModel) -> tuple[dict[str, Score], int]:
        """A model's scores by benchmark, and how many responses are new."""
        scores, total_new = {}, 0
        chat = model.reader.chat

        # Made when the first response is missing; gone, and off the devices, with the last.
        @functools.cache
        def generator() -> Generator:
            return make_generator(
                model.load(), chat, self.options, mesh=self.mesh, dtype=self.decoder.dtype
            )

        for benchmark, questions in self.inputs.questions.items():
            prompts = model.reader.questions[benchmark]
            label = f"{pair} {model.name} {benchmark}"
            evaluator = Evaluator(chat, questions, prompts, self.grader, self.options, label)
            journal = ResponseJournal(self.journal / f"{self._key(model, benchmark)}.jsonl")
            responses, new = evaluator.responses(journal, generator, self.context.check)
            total_new += new
            path = responses_path(self.context.workdir / pair, benchmark, model.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers([path.parent])
            write_responses(path, responses)
            summary = statistics(responses, self.options.rounds)
            scores[benchmark] = Score(**{k: summary[k] for k in Score.__dataclass_fields__})
        return scores, total_new

    def _key(self, model: TargetModel, benchmark: str) -> str:
        """Digest of all that determines a model's responses to a benchmark."""
        return digest_of(
            [
                model.weights,
                questions_digest(self.inputs.questions[benchmark]),
                [prompt.tokens for prompt in model.reader.questions[benchmark][0]],
                sorted(model.reader.chat.stop_tokens),
                {k: v for k, v in self.settings.items() if k not in _NOT_IN_KEY},
            ]
        )
