"""Responses of an evaluation: their journal, their file and their statistics."""

from __future__ import annotations

import contextlib
import json
import pathlib
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from svdjax.atomic import sync, write_atomically
from svdjax.checkpoint import digest_of
from svdjax.evaluate.benchmarks import Question

Key = tuple[str, int]
_ORDER_FIELDS = ("stem", "options")


@dataclass(frozen=True)
class Response:
    """A graded response to a question.

    Attributes:
        id: Id of the question.
        repeat: 0, 1, ...
        group: Group of the question.
        prompt: Text of the prompt.
        response: Text of the response.
        answer: The right answer.
        extracted: The answer in the response, None where there is none.
        correct: Whether it is right.
        reason: Why it could not be compared, empty where it was.
        tokens: Length of the response, without the stop token.
        stopped: Whether it ended by itself, not at the limit.
    """

    id: str
    repeat: int
    group: str
    prompt: str
    response: str
    answer: str
    extracted: str | None
    correct: bool
    reason: str
    tokens: int
    stopped: bool

    @property
    def key(self) -> Key:
        """Question and repeat."""
        return self.id, self.repeat


def stream(key: Key) -> int:
    """Number of a response's random stream: the same however many others are asked for."""
    return zlib.crc32(f"{key[1]} {key[0]}".encode("utf-8", "surrogatepass"))


def response_keys(questions: Sequence[Question], repeats: int) -> list[Key]:
    """Every question and repeat, repeat by repeat."""
    keys = ((question.id, repeat) for repeat in range(repeats) for question in questions)
    return list(dict.fromkeys(keys))


def questions_digest(questions: Sequence[Question]) -> str:
    """Digest of questions with their answers."""
    # Fields of drawn options are left out of questions that have none.
    return digest_of(
        [
            {k: v for k, v in asdict(question).items() if v or k not in _ORDER_FIELDS}
            for question in questions
        ]
    )


class ResponseJournal:
    """Responses as they come in: appended line by line, so that a killed run loses none."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def read(self) -> dict[Key, Response]:
        """Responses of an earlier run; a line that was cut off while it was written is removed."""
        responses: dict[Key, Response] = {}
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return responses
        end = content.rfind(b"\n") + 1
        for line in content[:end].splitlines():
            with contextlib.suppress(ValueError, TypeError):
                response = Response(**json.loads(line))
                responses[response.key] = response
        if end < len(content):
            with self.path.open("r+b") as file:
                file.truncate(end)
        return responses

    def append(self, responses: Iterable[Response]) -> None:
        """Adds responses; they are on disk when this returns."""
        content = b"".join(map(_line, responses))
        if content:
            with self.path.open("ab") as file:
                file.write(content)
                file.flush()
                sync(file.fileno(), self.path.parent)

    def remove(self) -> None:
        """Removes the journal."""
        self.path.unlink(missing_ok=True)


def write_responses(path: pathlib.Path, responses: Sequence[Response]) -> None:
    """Writes all responses, a line each, in the order given."""
    write_atomically(path, lambda file: file.writelines(map(_line, responses)))


def _line(response: Response) -> bytes:
    return json.dumps(asdict(response)).encode() + b"\n"


def statistics(responses: Sequence[Response], repeats: int) -> dict[str, Any]:
    """Accuracy and length, as in the paper's Tables 1 and 6.

    pass@1 in % and the mean number of output tokens are computed per repeat; mean and std are over
    the repeats (std of the population).
    """
    rounds = [[r for r in responses if r.repeat == repeat] for repeat in range(repeats)]
    accuracies = [100 * float(np.mean([r.correct for r in members])) for members in rounds]
    lengths = [float(np.mean([r.tokens for r in members])) for members in rounds]
    groups: dict[str, list[bool]] = {}
    for response in responses:
        if response.group:
            groups.setdefault(response.group, []).append(response.correct)
    return {
        "n": len(rounds[0]),
        "repeats": repeats,
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_std": float(np.std(accuracies)),
        "tokens_mean": float(np.mean(lengths)),
        "tokens_std": float(np.std(lengths)),
        "accuracies": accuracies,
        "stopped": 100 * float(np.mean([r.stopped for r in responses])),
        "not_compared": dict(Counter(r.reason for r in responses if r.reason)),
        "groups": {name: 100 * float(np.mean(correct)) for name, correct in groups.items()},
    }
