"""What the evaluation stage leaves of a pair."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from svdjax.atomic import write_json
from svdjax.engine.store import FORMAT_VERSION, read_results, stored_fields

EVALUATION, RESPONSES = "evaluation.json", "responses"


@dataclass(frozen=True)
class Score:
    """How a model did on a benchmark; means and standard deviations are those of the repeats.

    Attributes:
      n: questions.
      repeats: how often each was asked.
      accuracy_mean: pass@1 in %.
      accuracy_std: likewise.
      tokens_mean: output tokens of a response.
      tokens_std: likewise.
      stopped: % of the responses that ended by themselves, not at the limit.
      accuracies: pass@1 of every repeat, in %.
      groups: pass@1 by part of the benchmark, in %; empty where it has none.
      not_compared: how many answers could not be compared, by reason.
    """

    n: int
    repeats: int
    accuracy_mean: float
    accuracy_std: float
    tokens_mean: float
    tokens_std: float
    stopped: float
    accuracies: list[float] = field(default_factory=list)
    groups: Mapping[str, float] = field(default_factory=dict)
    not_compared: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationResults:
    """The answers of a pair's models, counted; every answer is in ``responses/``.

    Attributes:
      pair: name of the pair.
      benchmarks: data by name, as the config gave it.
      settings: the protocol: repeats, temperature, top_p, max_new_tokens, seed, system and so on.
      scores: by model, then by benchmark. ``post``, ``base``, then the variants.
      titles: a few words on each model.
      notes: what else is to be known.
    """

    pair: str
    benchmarks: Mapping[str, str]
    settings: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, Score]]
    titles: Mapping[str, str]
    notes: list[str] = field(default_factory=list)

    def save(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes ``evaluation.json``, whole or not at all; returns its path."""
        entry = {"format_version": FORMAT_VERSION, **asdict(self)}
        return write_json(pathlib.Path(directory) / EVALUATION, entry)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> EvaluationResults:
        """Reads what `save` wrote.

        Raises:
          InputError: it is missing, damaged, of another format version, or responses are gone.
        """

        def read(folder: pathlib.Path) -> EvaluationResults:
            fields: dict[str, Any] = stored_fields(folder / EVALUATION, cls)
            for model, scores in fields["scores"].items():
                for name in scores:
                    responses_path(folder, name, model).stat()
            scores = {
                model: {name: Score(**one) for name, one in each.items()}
                for model, each in fields["scores"].items()
            }
            return cls(**{**fields, "scores": scores})

        return read_results(directory, EVALUATION, read)


def responses_path(directory: pathlib.Path, benchmark: str, model: str) -> pathlib.Path:
    """Where every answer of a model lies."""
    return directory / RESPONSES / benchmark / f"{model}.jsonl"
