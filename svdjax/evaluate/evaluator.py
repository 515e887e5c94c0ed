"""Evaluation of a model on a benchmark: continuous batches in, graded responses out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import tqdm
from jax.sharding import Mesh

from svdjax.engine.progress import duration, note, shows_bars
from svdjax.errors import Interrupted
from svdjax.evaluate.benchmarks import Grader, Question, in_repeat
from svdjax.evaluate.job import EvaluationOptions
from svdjax.evaluate.responses import Key, Response, ResponseJournal, stream
from svdjax.model import Completion, Generator, Request, Sampling
from svdjax.text.chat import ChatModel, Prompt

LOG_SECONDS = 10.0
"""Between two lines of progress where there is no bar."""

_WRITE_SECONDS = 1.0  # between two writes


def make_generator(
    params: Any, chat: ChatModel, options: EvaluationOptions, *, mesh: Mesh, dtype: str
) -> Generator:
    """Generator of a model with an evaluation's sampling, its parameters put on the devices."""
    return Generator(
        params,
        chat.config,
        batch_size=options.batch_size,
        stop_tokens=chat.stop_tokens,
        sampling=Sampling(options.temperature, options.top_p, options.seed),
        mesh=mesh,
        dtype=jnp.dtype(dtype),
    )


class Evaluator:
    """A model's responses to the questions of a benchmark, graded.

    Args:
        chat: Tokenizer and chat template of the model.
        questions: The benchmark.
        prompts: Prompts by repeat, in the order of the questions.
        grader: An entered grader.
        options: How questions are asked.
        label: Name in lines of progress.
    """

    def __init__(
        self,
        chat: ChatModel,
        questions: Sequence[Question],
        prompts: Sequence[Sequence[Prompt]],
        grader: Grader,
        options: EvaluationOptions,
        label: str,
    ):
        self.chat, self.grader, self.options, self.label = chat, grader, options, label
        self.questions: dict[Key, Question] = {}
        self.prompts: dict[Key, Prompt] = {}
        for repeat in range(options.rounds):
            for question, prompt in zip(questions, prompts[repeat], strict=True):
                key = question.id, repeat
                self.questions[key], self.prompts[key] = in_repeat(question, repeat), prompt

    def responses(
        self,
        journal: ResponseJournal,
        generator: Callable[[], Generator],
        check: Callable[[str], None],
    ) -> tuple[list[Response], int]:
        """All responses, repeat by repeat; those that the journal lacks are generated and added.

        Args:
            journal: Journal of this model and benchmark.
            generator: Returns the model's generator; not called where no response is missing.
            check: Called with the progress; may raise `Interrupted`, and what was graded is
                written first.

        Returns:
            The responses, and how many of them are new.
        """
        responses = journal.read()
        keys = list(self.questions)
        missing = [key for key in keys if key not in responses]
        if missing:
            for graded in self.generate(generator(), missing, check):
                journal.append(graded)
                responses |= {response.key: response for response in graded}
        return [responses[key] for key in keys], len(missing)

    def generate(
        self,
        generator: Generator,
        keys: Sequence[Key],
        check: Callable[[str], None],
        *,
        quiet: bool = False,
    ) -> Iterator[list[Response]]:
        """Yields graded responses, a few at a time, until all of `keys` have one.

        Args:
            generator: The model's.
            keys: Some of the questions and repeats. A response depends on its own alone.
            check: As in `responses`; what was graded is yielded before it raises.
            quiet: Whether progress is told by the caller.
        """
        total = len(self.questions)
        finished, graded, correct = total - len(keys), [], 0
        start = logged = written = time.perf_counter()
        bar = tqdm.tqdm(
            total=total,
            initial=finished,
            desc=self.label,
            file=sys.stderr,
            leave=False,
            disable=quiet or not shows_bars(),
        )
        with bar:
            completions = generator.run([self._request(key) for key in keys])
            for count, completion in enumerate(completions, 1):
                graded.append(self._graded(keys[completion.index], completion))
                correct += graded[-1].correct
                bar.set_postfix_str(f"{100 * correct / count:.1f} % right", refresh=False)
                bar.update()
                now = time.perf_counter()
                if count == 1:
                    # The time before was mostly compilation, and says nothing of the rest.
                    start = logged = now
                if now - written > _WRITE_SECONDS:
                    yield graded
                    graded, written = [], now
                try:
                    check(f"{finished + count} of {total} answers kept")
                except Interrupted:
                    yield graded
                    raise
                if bar.disable and not quiet and now - logged > LOG_SECONDS:
                    logged = now
                    left = duration((now - start) / (count - 1) * (len(keys) - count))
                    note(
                        f"{self.label}: {finished + count} of {total} answers, "
                        f"{100 * correct / count:.1f} % right, {left} left"
                    )
        yield graded

    def _request(self, key: Key) -> Request:
        tokens = self.prompts[key].tokens
        room = self.chat.config.max_position_embeddings - len(tokens)
        return Request(tokens, min(self.options.max_new_tokens, room), stream(key))

    def _graded(self, key: Key, completion: Completion) -> Response:
        question = self.questions[key]
        text = self.chat.decode(completion.tokens)
        verdict = self.grader.grade(question, text)
        return Response(
            id=question.id,
            repeat=key[1],
            group=question.group,
            prompt=self.prompts[key].text,
            response=text,
            answer=question.answer,
            extracted=verdict.extracted,
            correct=verdict.correct,
            reason=verdict.reason,
            tokens=len(completion.tokens),
            stopped=completion.stopped,
        )


def repeat_prompts(
    model: ChatModel, questions: Sequence[Question], repeats: int, *, system: str | None = None
) -> list[list[Prompt]]:
    """Prompts of every repeat of a benchmark, which differ where the order of options does.

    Args:
        model: The model that answers.
        questions: The questions.
        repeats: Number of repeats.
        system: A system prompt in the place of the benchmark's own; empty for none.

    Raises:
        InputError: As `ChatModel.prompt`.
    """

    def prompt(question: Question) -> Prompt:
        own_system = question.system if system is None else system
        return model.prompt(question.text, own_system, f"question {question.id}")

    if not any(question.options for question in questions):
        return [[prompt(question) for question in questions]] * repeats
    return [
        [prompt(in_repeat(question, repeat)) for question in questions] for repeat in range(repeats)
    ]
