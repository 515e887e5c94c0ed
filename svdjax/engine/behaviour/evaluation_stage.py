"""The evaluation stage: every model of every pair answers the benchmarks' questions.

Answers are journaled by what determines them, so that a checkpoint which several pairs share is
asked once, and a sweep that was killed loses none.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jax.numpy as jnp

from svdjax.atomic import remove_leftovers
from svdjax.behaviour.benchmarks import Grader
from svdjax.checkpoint import digest_of
from svdjax.engine.behaviour import asking as answers
from svdjax.engine.behaviour.asked import Asking, questions_digest
from svdjax.engine.behaviour.responses import Journal, Key, Response, statistics, write_responses
from svdjax.engine.behaviour.results import EvaluationResults, Score, responses_path
from svdjax.engine.behaviour.subjects import Subject, subjects
from svdjax.engine.editing.making import Maker, kept_builder
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import duration, note
from svdjax.engine.results import Comparison
from svdjax.engine.stage import Stage
from svdjax.model import Generator, Sampling, decoder_mesh

_JOURNAL = ".evaluation"
# What the answers do not depend on, or what the questions' fingerprint says already.
_FREE = ("batch_size", "limit", "split")


def run_evaluation(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    asking: Asking,
    stage: Stage,
) -> dict[str, EvaluationResults]:
    """Asks and grades the models of every pair.

    Args:
      jobs: the validated pairs.
      comparisons: their analyses, which constructed models need.
      asking: questions and prompts.
      stage: see there.

    Returns:
      The results by pair, in the order of `jobs`.
    """
    builder = kept_builder(stage)
    with Grader() as grader:
        asker = _Asker(asking, stage, grader)

        def make(job: PairJob) -> EvaluationResults:
            return asker.pair(Maker(job, comparisons[job.spec.name], builder, stage))

        results = stage.pair_by_pair(jobs, EvaluationResults.load, make)
    shutil.rmtree(stage.workdir / _JOURNAL, ignore_errors=True)
    return results


class _Asker:
    """Asks the models of one pair after the other."""

    def __init__(self, asking: Asking, stage: Stage, grader: Grader):
        self.asking, self.stage, self.grader = asking, stage, grader
        self.how, self.decoder = stage.settings.evaluation, stage.settings.decoder
        self.mesh = decoder_mesh(stage.settings.devices, self.decoder.tensor_parallel)
        self.journal = stage.workdir / _JOURNAL

    def pair(self, maker: Maker) -> EvaluationResults:
        self.journal.mkdir(parents=True, exist_ok=True)
        name = maker.job.spec.name
        asked = subjects(maker, self.asking, self.stage)
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
            benchmarks=dict(self.stage.settings.benchmarks),
            settings=self._settings(),
            scores=scores,
            titles={one.name: one.title for one in asked},
            notes=list(dict.fromkeys(notes)),
        )
        results.save(self.stage.workdir / name)
        return results

    def _subject(self, pair: str, one: Subject) -> tuple[dict[str, Score], int]:
        """A model's scores by benchmark, and how many answers are new."""
        scores, new = {}, 0
        with contextlib.ExitStack() as memory:
            generator: list[Generator] = []
            # Weights leave the devices before the next model's come.
            memory.callback(generator.clear)
            for benchmark in self.asking.questions:
                found, count = self._answers(pair, one, benchmark, generator)
                new += count
                path = responses_path(self.stage.workdir / pair, benchmark, one.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers([path.parent])
                write_responses(path, found)
                counted = statistics(found, self.how.rounds)
                scores[benchmark] = Score(**{k: counted[k] for k in Score.__dataclass_fields__})
        return scores, new

    def _answers(
        self, pair: str, one: Subject, benchmark: str, generator: list[Generator]
    ) -> tuple[list[Response], int]:
        questions = self.asking.questions[benchmark]
        journal = Journal(self.journal / f"{self._key(one, benchmark)}.jsonl")
        kept: dict[Key, Response] = journal.read()
        keys = [(each.id, number) for number in range(self.how.rounds) for each in questions]
        missing = [key for key in keys if key not in kept]
        if missing:
            if not generator:
                generator.append(self._generator(one))
            asks = answers.Asking(
                one.reader.chat,
                questions,
                one.reader.questions[benchmark],
                self.grader,
                self.how.max_new_tokens,
                f"{pair} {one.name} {benchmark}",
            )
            for some in asks.run(generator[0], missing, len(kept), self.stage.check):
                journal.append(some)
                kept |= {each.key: each for each in some}
        return [kept[key] for key in keys], len(missing)

    def _generator(self, one: Subject) -> Generator:
        how = self.how
        return Generator(
            one.load(),
            one.reader.config,
            batch_size=how.batch_size,
            stop_tokens=one.reader.chat.stop_tokens,
            sampling=Sampling(how.temperature, how.top_p, how.seed),
            mesh=self.mesh,
            dtype=jnp.dtype(self.decoder.dtype),
        )

    def _key(self, one: Subject, benchmark: str) -> str:
        """Digest of all that determines a model's answers to a benchmark."""
        about = [
            one.weights,
            questions_digest(self.asking.questions[benchmark]),
            [prompt.tokens for prompt in one.reader.questions[benchmark]],
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
