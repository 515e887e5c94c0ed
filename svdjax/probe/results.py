"""Results of the probes stage for a pair: probes.json, and its arrays in npz files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from svdjax.engine.store import NpzFiles, Results, in_npz

ENTROPY, CKA, MAPS = "entropy.npz", "cka.npz", "maps.npz"
LINEARISED = "linearised.npz"


@dataclass(frozen=True)
class ProbeResults(Results):
    """Attention entropies, attention maps and CKA of a pair's models.

    Attributes:
        pair: Name of the pair.
        prompts: Path of the prompts.
        count: How many were read.
        positions: How many leading positions all prompts have.
        settings: ``samples``, ``debiased``, ``system`` and so on.
        titles: A few words on each model, in order; the first is ``post``, which all are compared
            with.
        entropy: As `svdjax.probe.measure.Probes.entropy`; entropy.npz.
        cka: As `svdjax.probe.measure.Probes.cka`; cka.npz.
        maps: As `svdjax.probe.measure.Probes.maps`; maps.npz, absent where there are none.
        linearised: `svdjax.probe.linearised.Linearised.arrays` of post around base;
            linearised.npz, absent where it was not asked for.
        notes: What else is to be known.
    """

    FILE = "probes.json"

    pair: str
    prompts: str
    count: int
    positions: int
    settings: Mapping[str, Any]
    titles: Mapping[str, str]
    entropy: Mapping[str, np.ndarray] = field(metadata=in_npz({ENTROPY: ()}))
    cka: Mapping[str, np.ndarray] = field(metadata=in_npz({CKA: ()}))
    maps: Mapping[str, np.ndarray] = field(default_factory=dict, metadata=in_npz({MAPS: ()}))
    linearised: Mapping[str, np.ndarray] = field(
        default_factory=dict, metadata=in_npz({LINEARISED: ()})
    )
    notes: list[str] = field(default_factory=list)

    def similarity(self, model: str) -> float:
        """Mean over the blocks of the CKA with post's same block; NaN where it is not defined."""
        values = np.diagonal(self.cka[model])
        return float(np.mean(values)) if values.size else math.nan

    def first_order(self) -> list[dict[str, Any]]:
        """Rows of `svdjax.probe.linearised.Linearised.figures`; none where it was not asked for."""
        from svdjax.probe.linearised import Linearised

        return Linearised.from_arrays(self.linearised).figures() if self.linearised else []

    def entries(self) -> dict[str, Any]:
        """Entries of probes.json: the fields, each model's means, and what is first order."""
        models = {
            name: {
                "entropy_last": float(np.mean(self.entropy[f"{name}/last"])),
                "entropy_mean": float(np.mean(self.entropy[f"{name}/mean"])),
                "cka": self.similarity(name),
            }
            for name in self.titles
        }
        return {**super().entries(), "models": models, "linearised": self.first_order()}

    @classmethod
    def _complete(cls, stored: Any, arrays: NpzFiles) -> None:
        for file in (MAPS, LINEARISED):
            if not (arrays.folder / file).exists():
                arrays[file] = {}
        asked = stored["settings"].get("linearised") and stored["linearised"]
        if asked and not arrays[LINEARISED]:
            raise KeyError(LINEARISED)
        entropy, cka = arrays[ENTROPY], arrays[CKA]
        missing = [
            name for name in stored["titles"] if name not in cka or f"{name}/last" not in entropy
        ]
        if missing:
            raise KeyError(", ".join(missing))


def differences(maps: Mapping[str, np.ndarray], first: str) -> dict[str, np.ndarray]:
    """Attention of every other model minus that of `first`, of those with maps of its shape."""
    return {
        name: np.asarray(values, np.float64) - maps[first]
        for name, values in maps.items()
        if name != first and np.shape(values) == np.shape(maps[first])
    }
