"""Every single response of an evaluation: kept as soon as it is there, and counted at the end."""

from __future__ import annotations

import json
import pathlib
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from svdjax.atomic import sync, write_atomically
from svdjax.checkpoint import digest_of
from svdjax.evaluate.benchmarks import Question

Key = tuple[str, int]
_DRAWN = ("stem", "options")


@dataclass(frozen=True)
class Response:
    """One answer to one question.

    Attributes:
        id: Of the question.
        repeat: 0, 1, ...
        group: Of the question.
        prompt: The text that the model read.
        response: What it wrote.
        answer: The right answer.
        extracted: The answer in the response, None where there is none.
        correct: The verdict.
        reason: Why it could not be compared, empty where it was.
        tokens: How many the response has, without the stop token.
        stopped: It ended by itself, not at the limit.
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
        return self.id, self.repeat


def stream(key: Key) -> int:
    """The number of a response's random stream: the same however many others are asked for."""
    return zlib.crc32(f"{key[1]} {key[0]}".encode("utf-8", "surrogatepass"))


def questions_digest(questions: Sequence[Question]) -> str:
    """Fingerprint of questions with their answers."""
    # Fields for drawn options say nothing of questions that have none.
    fields = [asdict(question) for question in questions]
    return digest_of([{k: v for k, v in one.items() if v or k not in _DRAWN} for one in fields])


class Journal:
    """Responses as they come in: appended line by line, so that a killed run loses none."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    def read(self) -> dict[Key, Response]:
        """What an earlier run has left; a line that was cut off while it was written is dropped."""
        found: dict[Key, Response] = {}
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return found
        end = content.rfind(b"\n") + 1
        for line in content[:end].splitlines():
            try:
                one = Response(**json.loads(line))
                found[one.key] = one
            except (ValueError, TypeError):
                continue
        if end < len(content):
            with self.path.open("r+b") as file:
                file.truncate(end)
        return found

    def append(self, responses: Iterable[Response]) -> None:
        """Adds responses; they are on disk when this returns."""
        text = "".join(_line(one) for one in responses)
        if text:
            with self.path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                sync(file.fileno(), self.path.parent)

    def remove(self) -> None:
        """Takes the journal away."""
        self.path.unlink(missing_ok=True)


def write_responses(path: pathlib.Path, responses: Sequence[Response]) -> None:
    """Writes all responses, a line each, in the order given."""

    def write(file: Any) -> None:
        for one in responses:
            file.write(_line(one).encode())

    write_atomically(path, write)


def _line(response: Response) -> str:
    return json.dumps(asdict(response)) + "\n"


def statistics(responses: Sequence[Response], repeats: int) -> dict[str, Any]:
    """Accuracy and length, as in the paper's Tables 1 and 6.

    pass@1 in % is found per repeat, and so is the mean number of output tokens; mean and std are
    those of the repeats (std of the population).
    """
    rounds = [[one for one in responses if one.repeat == number] for number in range(repeats)]
    accuracies = [100 * float(np.mean([one.correct for one in each])) for each in rounds]
    lengths = [float(np.mean([one.tokens for one in each])) for each in rounds]
    reasons: dict[str, int] = {}
    for one in responses:
        if one.reason:
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
    groups: dict[str, list[bool]] = {}
    for one in responses:
        if one.group:
            groups.setdefault(one.group, []).append(one.correct)
    return {
        "n": len(rounds[0]),
        "repeats": repeats,
        "accuracy_mean": float(np.mean(accuracies)),
        "accuracy_std": float(np.std(accuracies)),
        "tokens_mean": float(np.mean(lengths)),
        "tokens_std": float(np.std(lengths)),
        "accuracies": accuracies,
        "stopped": 100 * float(np.mean([one.stopped for one in responses])),
        "not_compared": reasons,
        "groups": {name: 100 * float(np.mean(marks)) for name, marks in groups.items()},
    }
