"""Asking a model questions: continuous batches in, graded answers out as they come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence

import tqdm

from svdjax.behaviour.benchmarks import Grader, Question
from svdjax.behaviour.chat import ChatModel, Prompt
from svdjax.engine.behaviour.responses import Key, Response, stream
from svdjax.engine.progress import duration, note
from svdjax.errors import Interrupted
from svdjax.model import Completion, Generator, Request

# Seconds between two looks at the progress where there is no bar, and between two writes.
_EVERY, _KEEP = 10.0, 1.0


class Asking:
    """Asks a model the questions of a benchmark, grades, and says how far it is."""

    def __init__(
        self,
        chat: ChatModel,
        questions: Sequence[Question],
        prompts: Sequence[Prompt],
        grader: Grader,
        max_new_tokens: int,
        label: str,
    ):
        self.chat, self.grader = chat, grader
        self.max_new_tokens, self.label = max_new_tokens, label
        self.questions = {one.id: one for one in questions}
        self.prompts = {one.id: prompt for one, prompt in zip(questions, prompts)}

    def run(
        self,
        generator: Generator,
        keys: Sequence[Key],
        before: int,
        check: Callable[[str], None],
    ) -> Iterator[list[Response]]:
        """Yields graded responses, a few at a time, until all of `keys` are answered.

        Args:
          generator: the model.
          keys: questions and repeats that have no answer yet.
          before: how many others have one.
          check: told how far it is; may raise `Interrupted`, and what was graded is yielded first.
        """
        requests = [self._request(key) for key in keys]
        total, began, said, graded = before + len(keys), time.perf_counter(), 0.0, []
        last, right = time.perf_counter(), 0
        bar = tqdm.tqdm(
            total=total,
            initial=before,
            desc=self.label,
            file=sys.stderr,
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        with bar:
            for count, one in enumerate(generator.run(requests), 1):
                graded.append(self._graded(keys[one.index], one))
                right += graded[-1].correct
                bar.set_postfix_str(f"{100 * right / count:.1f} % right", refresh=False)
                bar.update()
                now = time.perf_counter()
                if now - last > _KEEP:
                    yield graded
                    graded, last = [], now
                try:
                    check(f"{before + count} of {total} answers kept")
                except Interrupted:
                    yield graded
                    raise
                if bar.disable and now - began - said > _EVERY:
                    said = now - began
                    left = duration(said / count * (len(keys) - count))
                    note(
                        f"{self.label}: {before + count} of {total} answers, "
                        f"{100 * right / count:.1f} % right, {left} left"
                    )
        yield graded

    def _request(self, key: Key) -> Request:
        tokens = self.prompts[key[0]].tokens
        context = self.chat.config.max_position_embeddings
        most = min(self.max_new_tokens, context - len(tokens))
        return Request(tokens, most, stream(key))

    def _graded(self, key: Key, one: Completion) -> Response:
        question = self.questions[key[0]]
        text = self.chat.decode(one.tokens)
        verdict = self.grader.grade(question, text)
        return Response(
            id=question.id,
            repeat=key[1],
            group=question.group,
            prompt=self.prompts[question.id].text,
            response=text,
            answer=question.answer,
            extracted=verdict.extracted,
            correct=verdict.correct,
            reason=verdict.reason,
            tokens=len(one.tokens),
            stopped=one.stopped,
        )
