"""What the probes and evaluation stages leave of a pair."""

from __future__ import annotations

import json
import math
import os
import pathlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np

from svdjax.atomic import read_npz, write_json, write_npz
from svdjax.errors import InputError
from svdjax.spectra.results import FORMAT_VERSION

EVALUATION, PROBES, RESPONSES = "evaluation.json", "probes.json", "responses"
ENTROPY, CKA, MAPS = "entropy.npz", "cka.npz", "maps.npz"
Read = TypeVar("Read")


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


@dataclass(frozen=True)
class ProbeResults:
    """What went on inside a pair's models: probes.json, and the arrays beside it.

    Attributes:
      pair: name of the pair.
      prompts: path of the prompts.
      count: how many were read.
      positions: how many leading positions all prompts have.
      settings: samples, debiased, system and so on.
      titles: a few words on each model, in order; the first is ``post``, which all are held
        against.
      entropy: as `svdjax.probe.measure.Probes` has it; entropy.npz.
      cka: likewise; cka.npz.
      maps: likewise; maps.npz.
      notes: what else is to be known.
    """

    pair: str
    prompts: str
    count: int
    positions: int
    settings: Mapping[str, Any]
    titles: Mapping[str, str]
    entropy: Mapping[str, np.ndarray]
    cka: Mapping[str, np.ndarray]
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def similarity(self, model: str) -> float:
        """Mean over the blocks of the CKA with post's same block; NaN where it is not defined."""
        values = np.diagonal(self.cka[model])
        return float(np.mean(values)) if values.size else math.nan

    def save(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes the arrays, then ``probes.json``; returns its path."""
        folder = pathlib.Path(directory)
        for name, arrays in self._arrays().items():
            write_npz(folder / name, arrays)
        fields = {k: getattr(self, k) for k in self.__dataclass_fields__ if k not in _ARRAYS}
        models = {
            name: {
                "entropy_last": float(np.mean(self.entropy[f"{name}/last"])),
                "entropy_mean": float(np.mean(self.entropy[f"{name}/mean"])),
                "cka": self.similarity(name),
            }
            for name in self.titles
        }
        entry = {"format_version": FORMAT_VERSION, **fields, "models": models}
        return write_json(folder / PROBES, entry)

    def _arrays(self) -> dict[str, Mapping[str, np.ndarray]]:
        return {file: getattr(self, name) for name, file in _ARRAYS.items() if getattr(self, name)}

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> ProbeResults:
        """Reads what `save` wrote.

        Raises:
          InputError: it is missing, damaged, or of another format version.
        """

        def read(folder: pathlib.Path) -> ProbeResults:
            fields = stored_fields(folder / PROBES, cls, without=tuple(_ARRAYS))
            arrays = {}
            for name, file in _ARRAYS.items():
                there = name != "maps" or (folder / file).exists()
                arrays[name] = read_npz(folder / file) if there else {}
            missing = [
                name
                for name in fields["titles"]
                if name not in arrays["cka"] or f"{name}/last" not in arrays["entropy"]
            ]
            if missing:
                raise KeyError(", ".join(missing))
            return cls(**fields, **arrays)

        return read_results(directory, PROBES, read)


_ARRAYS = {"entropy": ENTROPY, "cka": CKA, "maps": MAPS}


def responses_path(directory: pathlib.Path, benchmark: str, model: str) -> pathlib.Path:
    """Where every answer of a model lies."""
    return directory / RESPONSES / benchmark / f"{model}.jsonl"


def stored_fields(path: pathlib.Path, kind: type, without: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a dataclass, as its JSON file has them; `without` those that it has not.

    Raises:
      InputError: the file is of another format version.
    """
    stored = json.loads(path.read_text(encoding="utf-8"))
    if stored["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path} has format_version {stored['format_version']!r}, this svdjax reads "
            f"{FORMAT_VERSION}"
        )
    return {name: stored[name] for name in kind.__dataclass_fields__ if name not in without}


def read_results(
    directory: str | os.PathLike[str], file: str, read: Callable[[pathlib.Path], Read]
) -> Read:
    """What `read` makes of a pair's directory; whatever is wrong with `file` is one error.

    Raises:
      InputError: it is missing, damaged, or of another format version.
    """
    folder = pathlib.Path(directory)
    try:
        return read(folder)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{folder / file} is missing or damaged ({type(error).__name__}: {error}); run the "
            "sweep again in a new workdir"
        ) from error
