"""The evaluation stage: every model of every pair answers the benchmarks' questions.

Answers are journaled by what determines them, so that a checkpoint which several pairs share is
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
from svdjax.construct.variant_builder import VariantBuilder, kept_builder
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import duration, note
from svdjax.evaluate.asking import Asking, make_generator
from svdjax.evaluate.benchmarks import Grader
from svdjax.evaluate.inputs import EvalInputs
from svdjax.evaluate.responses import Journal, questions_digest, statistics, write_responses
from svdjax.evaluate.results import EvaluationResults, Score, responses_path
from svdjax.evaluate.targets import TargetModel, target_models
from svdjax.model import Generator, decoder_mesh
from svdjax.spectra.results import Comparison

_JOURNAL = ".evaluation"
# What the answers do not depend on, or what the questions' fingerprint says already.
_FREE = ("batch_size", "limit", "split")


def run_evaluation(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    material: EvalInputs,
    stage: Context,
) -> dict[str, EvaluationResults]:
    """Asks and grades the models of every pair.

    Args:
        jobs: The validated pairs.
        comparisons: Their analyses, which constructed models need.
        material: Questions and prompts.
        stage: See there.

    Returns:
        The results by pair, in the order of `jobs`.
    """
    builder = kept_builder(stage)
    with Grader() as grader, stage.journal(_JOURNAL) as journal:
        asker = _Asker(material, stage, grader, journal)

        def make(job: PairJob) -> EvaluationResults:
            return asker.pair(VariantBuilder(job, comparisons[job.spec.name], builder, stage))

        return stage.pair_by_pair(jobs, EvaluationResults.load, make)


class _Asker:
    """Asks the models of one pair after the other."""

    def __init__(self, material: EvalInputs, stage: Context, grader: Grader, journal: pathlib.Path):
        self.material, self.stage, self.grader = material, stage, grader
        self.how, self.decoder = stage.settings.evaluation, stage.settings.decoder
        self.mesh = decoder_mesh(stage.settings.devices, self.decoder.tensor_parallel)
        self.journal = journal

    def pair(self, maker: VariantBuilder) -> EvaluationResults:
        name = maker.job.spec.name
        asked = target_models(maker, self.material, self.stage, controls=True)
        scores: dict[str, dict[str, Score]] = {}
        times: list[float] = []
        for number, one in enumerate(asked, 1):
            self.stage.check(f"evaluation of {name}: {number - 1} of {len(asked)} done")
            began = time.perf_counter()
            scores[one.name], new = self._subject(name, one)
            if new:
                times.append(time.perf_counter() - began)
            left = sum(times[-3:]) / max(1, len(times[-3:])) * (len(asked) - number)
            note(
                f"evaluated {number}/{len(asked)} {name} {one.name} ({_said(scores[one.name])}; "
                f"{duration(left)} left)"
            )
        notes = [one.reader.note for one in asked if one.reader.note]
        results = EvaluationResults(
            pair=name,
            benchmarks=self.stage.settings.benchmarks.given,
            settings=self._settings(),
            scores=scores,
            titles={one.name: one.title for one in asked},
            notes=list(dict.fromkeys(notes)),
        )
        results.save(self.stage.workdir / name)
        return results

    def _subject(self, pair: str, one: TargetModel) -> tuple[dict[str, Score], int]:
        """A model's scores by benchmark, and how many answers are new."""
        scores, new = {}, 0

        # Made when the first answer is missing; gone, and off the devices, with the last.
        @functools.cache
        def generator() -> Generator:
            chat, decoder = one.reader.chat, self.decoder
            return make_generator(one.load(), chat, self.how, mesh=self.mesh, dtype=decoder.dtype)

        for benchmark, questions in self.material.questions.items():
            prompts = one.reader.questions[benchmark]
            label = f"{pair} {one.name} {benchmark}"
            asking = Asking(one.reader.chat, questions, prompts, self.grader, self.how, label)
            journal = Journal(self.journal / f"{self._key(one, benchmark)}.jsonl")
            found, count = asking.answers(journal, generator, self.stage.check)
            new += count
            path = responses_path(self.stage.workdir / pair, benchmark, one.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers([path.parent])
            write_responses(path, found)
            counted = statistics(found, self.how.rounds)
            scores[benchmark] = Score(**{k: counted[k] for k in Score.__dataclass_fields__})
        return scores, new

    def _key(self, one: TargetModel, benchmark: str) -> str:
        """Digest of all that determines a model's answers to a benchmark."""
        about = [
            one.weights,
            questions_digest(self.material.questions[benchmark]),
            [prompt.tokens for prompt in one.reader.questions[benchmark][0]],
            sorted(one.reader.chat.stop_tokens),
            {k: v for k, v in self._settings().items() if k not in _FREE},
        ]
        return digest_of(about)

    def _settings(self) -> dict[str, Any]:
        chosen = {k: v for k, v in asdict(self.decoder).items() if k != "devices"}
        return asdict(self.how) | {"repeats": self.how.rounds} | chosen


def _said(scores: Mapping[str, Score]) -> str:
    return ", ".join(
        f"{name} {one.accuracy_mean:.1f} %, {one.tokens_mean:.0f} tokens"
        for name, one in scores.items()
    )
