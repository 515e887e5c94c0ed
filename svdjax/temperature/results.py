"""Results of the temperature stage for a pair: temperature.json and temperature.npz.

Axes: `P` projections, `R` rows of layers (the last: all together), `F` factors, `B` blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svdjax.engine.store import NpzFiles, Results, in_npz
from svdjax.temperature.options import ALL

ARRAYS = "temperature.npz"
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
_AXES = ("projections", "layers", "factors")
"""Fields that stand in temperature.npz too, for who reads it alone."""


@dataclass(frozen=True)
class TemperatureResults(Results):
    """Loss, entropies and answers of models whose singular values were scaled.

    Attributes:
        pair: Name of the pair.
        models: ``post``, ``base``: whose singular values were scaled.
        projections: What was scaled together, names of `svdjax.temperature.options.GROUPS` [P].
        layers: Which were scaled one at a time, then `ALL`, -1: all together [R].
        factors: Ascending, 1 (the model as it is) among them [F].
        data: What was measured on: texts, tokens, prompts, questions.
        left_out: What was not measured, and why.
        notes: What else is to be known.
        settings: The leaves of the section, and those of the decoder.
        values: "<model>/<name>", for answers "<model>/<name>/<benchmark>", names as in `UNITS`, to
            [P, R, F]; entropies [P, R, F, B], of every block. NaN where a point was not measured.
    """

    FILE = "temperature.json"

    pair: str
    models: list[str]
    projections: list[str]
    layers: list[int]
    factors: list[float]
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    values: Mapping[str, np.ndarray] = field(metadata=in_npz({ARRAYS: _AXES}))
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def get(self, model: str, name: str) -> np.ndarray | None:
        """Array of a model; None where it was not measured."""
        return self.values.get(f"{model}/{name}")

    @property
    def benchmarks(self) -> list[str]:
        """Benchmarks whose questions were asked."""
        return list(self.data["questions"])

    def entries(self) -> dict[str, Any]:
        """Entries of temperature.json: the fields, and what temperature.npz holds."""
        names = {name.split("/")[1] for name in self.values}
        held = {
            "file": ARRAYS,
            "axes": list(_AXES),
            "axes_of_entropies": [*_AXES, "blocks"],
            "layer_of_all_layers": ALL,
            "units": {name: text for name, text in UNITS.items() if name in names},
        }
        return {**super().entries(), "arrays": held}

    @classmethod
    def _complete(cls, stored: Any, arrays: NpzFiles) -> None:
        shape = tuple(len(stored[axis]) for axis in _AXES)
        values = {name: array for name, array in arrays[ARRAYS].items() if name not in _AXES}
        for name, array in values.items():
            if array.shape[:3] != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
        if not values:
            raise KeyError("no array")
