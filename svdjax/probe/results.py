"""What the probes stage leaves of a pair."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svdjax.atomic import read_npz, write_json, write_npz
from svdjax.engine.store import FORMAT_VERSION, read_results, stored_fields

PROBES = "probes.json"
ENTROPY, CKA, MAPS = "entropy.npz", "cka.npz", "maps.npz"


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
