"""What the temperature stage leaves of a pair: temperature.json, and temperature.npz beside it.

Axes: `P` projections, `R` rows of layers (the last: all together), `F` factors, `B` blocks.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svdjax.atomic import read_npz, write_json, write_npz
from svdjax.engine.store import FORMAT_VERSION, read_results, stored_fields
from svdjax.temperature.options import ALL

TEMPERATURE, ARRAYS = "temperature.json", "temperature.npz"
UNITS: Mapping[str, str] = {
    "loss": "next-token cross-entropy on the held-out text, nats per token",
    "kl": "KL(unscaled || scaled) of the next-token distributions, nats per token",
    "agreement": "tokens with the same likeliest prediction as unscaled, %",
    "entropy_last": "attention entropy of the last position, mean of heads and prompts, nats",
    "entropy_mean": "attention entropy of all positions, mean of heads and prompts, nats",
    "temperature_last": "entropy_last where biases are scaled too: attention at 1/factor^2",
    "temperature_mean": "entropy_mean, likewise",
    "accuracy": "right answers, greedy, %",
    "tokens": "output tokens of an answer, mean",
    "stopped": "answers that ended by themselves, %",
}
"""Names of the arrays, what they hold and in which unit."""


@dataclass(frozen=True)
class TemperatureResults:
    """Singular values scaled by layer and projection, and what it did.

    Attributes:
      pair: name of the pair.
      models: ``post``, ``base``: whose singular values were scaled.
      projections: what was scaled together, names of `svdjax.temperature.options.GROUPS` [P].
      layers: which were scaled one at a time, then `ALL`, -1: all together [R].
      factors: ascending, 1 (the model as it is) among them [F].
      data: what was measured on: texts, tokens, prompts, questions.
      left_out: what was not measured, and why.
      notes: what else is to be known.
      settings: the leaves of the section, and those of the decoder.
      values: "<model>/<name>", for answers "<model>/<name>/<benchmark>", names as in `UNITS`, to
        [P, R, F]; entropies [P, R, F, B], of every block. NaN where a point was not measured.
    """

    pair: str
    models: list[str]
    projections: list[str]
    layers: list[int]
    factors: list[float]
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    values: Mapping[str, np.ndarray]
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def get(self, model: str, name: str) -> np.ndarray | None:
        """An array of a model; None where it was not measured."""
        return self.values.get(f"{model}/{name}")

    @property
    def benchmarks(self) -> list[str]:
        """Those of which questions were asked."""
        return list(self.data["questions"])

    def save(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes the arrays, then ``temperature.json``; returns its path."""
        folder = pathlib.Path(directory)
        axes = {
            "projections": np.array(self.projections),
            "layers": np.array(self.layers, np.int64),
            "factors": np.array(self.factors, np.float64),
        }
        write_npz(folder / ARRAYS, {**axes, **self.values})
        fields = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "values"}
        names = {name.split("/")[1] for name in self.values}
        entry = {
            "format_version": FORMAT_VERSION,
            **fields,
            "arrays": {
                "file": ARRAYS,
                "axes": ["projections", "layers", "factors"],
                "axes_of_entropies": ["projections", "layers", "factors", "blocks"],
                "layer_of_all_layers": ALL,
                "units": {name: text for name, text in UNITS.items() if name in names},
            },
        }
        return write_json(folder / TEMPERATURE, entry)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> TemperatureResults:
        """Reads what `save` wrote.

        Raises:
          InputError: it is missing, damaged, or of another format version.
        """

        def read(folder: pathlib.Path) -> TemperatureResults:
            fields = stored_fields(folder / TEMPERATURE, cls, without=("values",))
            values = {k: v for k, v in read_npz(folder / ARRAYS).items() if "/" in k}
            shape = tuple(len(fields[axis]) for axis in ("projections", "layers", "factors"))
            for name, array in values.items():
                if array.shape[:3] != shape:
                    raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
            if not values:
                raise KeyError("no array")
            return cls(**fields, values=values)

        return read_results(directory, TEMPERATURE, read)
