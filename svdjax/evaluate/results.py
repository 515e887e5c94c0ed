"""Results of the evaluation stage for a pair: evaluation.json, and every answer in responses/."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax.engine.store import ADDED, NpzFiles, Results

RESPONSES = "responses"


@dataclass(frozen=True)
class Score:
    """Accuracy and length of a model's answers to a benchmark; mean and std are over the repeats.

    Attributes:
        n: Questions.
        repeats: How often each was asked.
        accuracy_mean: pass@1 in %.
        accuracy_std: Population standard deviation of pass@1.
        tokens_mean: Output tokens of a response.
        tokens_std: Population standard deviation of the repeats' mean tokens.
        stopped: % of the responses that ended by themselves, not at the limit.
        accuracies: pass@1 of every repeat, in %.
        groups: pass@1 by part of the benchmark, in %; empty where it has none.
        not_compared: How many answers could not be compared, by reason.
    """

    n: int
    repeats: int
    accuracy_mean: float
    accuracy_std: float
    tokens_mean: float
    tokens_std: float
    stopped: float
    accuracies: list[float] = field(default_factory=list, metadata=ADDED)
    groups: Mapping[str, float] = field(default_factory=dict, metadata=ADDED)
    not_compared: Mapping[str, int] = field(default_factory=dict, metadata=ADDED)


@dataclass(frozen=True)
class EvaluationResults(Results):
    """Scores of a pair's models.

    Attributes:
        pair: Name of the pair.
        benchmarks: Data by name, as the config gave it.
        settings: The protocol: repeats, temperature, top_p, max_new_tokens, seed, system and so on.
        scores: By model, then by benchmark. ``post``, ``base``, then the variants.
        titles: A few words on each model.
        notes: What else is to be known.
    """

    FILE = "evaluation.json"

    pair: str
    benchmarks: Mapping[str, str]
    settings: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Score]]
    titles: Mapping[str, str]
    notes: list[str] = field(default_factory=list)

    @classmethod
    def _complete(cls, stored: Any, arrays: NpzFiles) -> None:
        for model, scores in stored["scores"].items():
            for benchmark in scores:
                responses_path(arrays.folder, benchmark, model).stat()


def responses_path(directory: pathlib.Path, benchmark: str, model: str) -> pathlib.Path:
    """File of a model's answers to a benchmark."""
    return directory / RESPONSES / benchmark / f"{model}.jsonl"
