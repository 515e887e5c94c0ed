"""Asking a model questions: continuous batches in, graded answers out as they come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import tqdm
from jax.sharding import Mesh

from svdjax.engine.progress import duration, note
from svdjax.errors import Interrupted
from svdjax.evaluate.benchmarks import Grader, Question, in_repeat
from svdjax.evaluate.job import EvaluationOptions
from svdjax.evaluate.responses import Journal, Key, Response, stream
from svdjax.model import Completion, Generator, Request, Sampling
from svdjax.text.chat import ChatModel, Prompt, question_prompts

# Seconds between two looks at the progress where there is no bar, and between two writes.
_EVERY, _KEEP = 10.0, 1.0


def make_generator(
    params: Any, chat: ChatModel, how: EvaluationOptions, *, mesh: Mesh, dtype: str
) -> Generator:
    """A model on its devices, to be asked by a protocol."""
    return Generator(
        params,
        chat.config,
        batch_size=how.batch_size,
        stop_tokens=chat.stop_tokens,
        sampling=Sampling(how.temperature, how.top_p, how.seed),
        mesh=mesh,
        dtype=jnp.dtype(dtype),
    )


class Asking:
    """Asks a model the questions of a benchmark, grades, and says how far it is.

    Args:
        chat: How the model reads.
        questions: The benchmark.
        prompts: By repeat, the same as the model reads them, in this order.
        grader: entered.
        how: The protocol.
        label: What progress calls it.
    """

    def __init__(
        self,
        chat: ChatModel,
        questions: Sequence[Question],
        prompts: Sequence[Sequence[Prompt]],
        grader: Grader,
        how: EvaluationOptions,
        label: str,
    ):
        self.chat, self.grader, self.how, self.label = chat, grader, how, label
        self.questions: dict[Key, Question] = {}
        self.prompts: dict[Key, Prompt] = {}
        for repeat in range(how.rounds):
            for question, prompt in zip(questions, prompts[repeat], strict=True):
                key = question.id, repeat
                self.questions[key], self.prompts[key] = in_repeat(question, repeat), prompt

    def answers(
        self,
        journal: Journal,
        generator: Callable[[], Generator],
        check: Callable[[str], None],
    ) -> tuple[list[Response], int]:
        """All responses, repeat by repeat; those that the journal lacks are made and kept there.

        Args:
            journal: Of this model and benchmark.
            generator: Gives the model; not called where no answer is missing.
            check: Told how far it is; may raise `Interrupted`, and what was graded is kept first.

        Returns:
            The responses, and how many of them are new.
        """
        kept = journal.read()
        keys = list(self.questions)
        missing = [key for key in keys if key not in kept]
        if missing:
            for some in self._asked(generator(), missing, len(keys), check):
                journal.append(some)
                kept |= {one.key: one for one in some}
        return [kept[key] for key in keys], len(missing)

    def _asked(
        self,
        generator: Generator,
        keys: Sequence[Key],
        total: int,
        check: Callable[[str], None],
    ) -> Iterator[list[Response]]:
        """Yields graded responses, a few at a time, until all of `keys` are answered."""
        before, graded, right = total - len(keys), [], 0
        began = said = last = time.perf_counter()
        bar = tqdm.tqdm(
            total=total,
            initial=before,
            desc=self.label,
            file=sys.stderr,
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        with bar:
            for count, one in enumerate(generator.run([self._request(key) for key in keys]), 1):
                graded.append(self._graded(keys[one.index], one))
                right += graded[-1].correct
                bar.set_postfix_str(f"{100 * right / count:.1f} % right", refresh=False)
                bar.update()
                now = time.perf_counter()
                if count == 1:
                    # What came before was mostly compilation, and tells nothing of what is left.
                    began = said = now
                if now - last > _KEEP:
                    yield graded
                    graded, last = [], now
                try:
                    check(f"{before + count} of {total} answers kept")
                except Interrupted:
                    yield graded
                    raise
                if bar.disable and now - said > _EVERY:
                    said = now
                    left = duration((now - began) / (count - 1) * (len(keys) - count))
                    note(
                        f"{self.label}: {before + count} of {total} answers, "
                        f"{100 * right / count:.1f} % right, {left} left"
                    )
        yield graded

    def _request(self, key: Key) -> Request:
        tokens = self.prompts[key].tokens
        context = self.chat.config.max_position_embeddings
        most = min(self.how.max_new_tokens, context - len(tokens))
        return Request(tokens, most, stream(key))

    def _graded(self, key: Key, one: Completion) -> Response:
        question = self.questions[key]
        text = self.chat.decode(one.tokens)
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
            tokens=len(one.tokens),
            stopped=one.stopped,
        )


def repeat_prompts(
    model: ChatModel, questions: Sequence[Question], repeats: int, *, system: str | None = None
) -> list[list[Prompt]]:
    """The prompts of every repeat of a benchmark, which differ where the order of options does.

    Args:
        model: Who is asked.
        questions: What.
        repeats: How often.
        system: As in `question_prompts`.

    Raises:
        InputError: As `ChatModel.prompt`.
    """
    prompts = [question_prompts(model, questions, system=system)]
    if not any(question.options for question in questions):
        return prompts * repeats
    for repeat in range(1, repeats):
        asked = [in_repeat(question, repeat) for question in questions]
        prompts.append(question_prompts(model, asked, system=system))
    return prompts
