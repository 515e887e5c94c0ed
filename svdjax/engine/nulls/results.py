"""What the nulls stage leaves of a pair: nulls.npz, and nulls.json with what follows from it.

Axis legend: `L` layers, `R` rank, `D` draws. Rows of layers that were not sampled are NaN.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from svdjax.atomic import read_npz, write_json, write_npz
from svdjax.engine.nulls.choosing import UNCHANGED
from svdjax.engine.nulls.verdicts import Against, against, pooled, verdict
from svdjax.engine.results import FORMAT_VERSION, member
from svdjax.errors import InputError

ARRAYS, SUMMARY = "nulls.npz", "nulls.json"
SOURCES = ("sampled", "first_order", "all_orders", "none")


class NullArrays(NamedTuple):
    """The arrays of a projection; in nulls.npz as ``<projection>/<name>``.

    ``spectrum``: the real change's singular values, random singular vectors. ``gaussian``: normal
    entries, the real change's norm.

    Attributes:
      nf: NF as measured, [L].
      alpha: mean scaling of the top 90 % of the singular values as measured, [L].
      spread: population standard deviation of the same, [L].
      delta: ||W_post - alpha W_base||_F / ||W_post||_F, [L].
      rounding: what of that the storage dtype's rounding alone would make, [L].
      nf_first_order: analytic null of NF, [L].
      nf_all_orders: likewise, Gaussian, [L].
      first_order_holds: bool [L].
      all_orders_hold: bool [L].
      sampled: which layers were, bool [L].
      sigma_delta: singular values of the real change, [L, R].
      nf_spectrum: NF of every draw, [L, D].
      nf_gaussian: likewise.
      alpha_spectrum: as alpha, [L, D].
      alpha_gaussian: likewise.
      spread_spectrum: as spread, [L, D].
      spread_gaussian: likewise.
      svsm_mean_spectrum: mean over the draws of each sigma_draw / sigma_base, [L, R].
      svsm_mean_gaussian: likewise.
      svsm_std_spectrum: standard deviation over the draws, [L, R].
      svsm_std_gaussian: likewise.
    """

    nf: np.ndarray
    alpha: np.ndarray
    spread: np.ndarray
    delta: np.ndarray
    rounding: np.ndarray
    nf_first_order: np.ndarray
    nf_all_orders: np.ndarray
    first_order_holds: np.ndarray
    all_orders_hold: np.ndarray
    sampled: np.ndarray
    sigma_delta: np.ndarray
    nf_spectrum: np.ndarray
    nf_gaussian: np.ndarray
    alpha_spectrum: np.ndarray
    alpha_gaussian: np.ndarray
    spread_spectrum: np.ndarray
    spread_gaussian: np.ndarray
    svsm_mean_spectrum: np.ndarray
    svsm_mean_gaussian: np.ndarray
    svsm_std_spectrum: np.ndarray
    svsm_std_gaussian: np.ndarray


@dataclass(frozen=True)
class ProjectionNulls:
    """The nulls of one projection.

    Attributes:
      name: of the projection.
      shape: (in, out).
      arrays: see `NullArrays`.
    """

    name: str
    shape: tuple[int, int]
    arrays: NullArrays

    @property
    def layers(self) -> int:
        """`L`."""
        return len(self.arrays.nf)

    @property
    def draws(self) -> int:
        """`D`."""
        return self.arrays.nf_spectrum.shape[1]

    @property
    def unchanged(self) -> np.ndarray:
        """Which layers equal the base up to a factor, bool [L]."""
        return ~(self.arrays.delta > UNCHANGED)

    @property
    def rounded(self) -> np.ndarray:
        """Which layers changed by no more than rounding to their storage dtype makes, bool [L]."""
        return ~self.unchanged & (self.arrays.delta <= self.arrays.rounding)

    @cached_property
    def source(self) -> np.ndarray:
        """Where the null of each layer's NF comes from, one of `SOURCES`, [L]."""
        a = self.arrays
        analytic = np.where(
            a.first_order_holds, "first_order", np.where(a.all_orders_hold, "all_orders", "none")
        )
        return np.where(a.sampled, "sampled", analytic)

    @cached_property
    def nf_null(self) -> np.ndarray:
        """The null of each layer's NF: mean of the ``spectrum`` draws, or by formula, [L]."""
        a = self.arrays
        formula = np.where(a.first_order_holds, a.nf_first_order, a.nf_all_orders)
        drawn = a.nf_spectrum.mean(axis=1) if self.draws else formula
        chosen = np.where(self.source == "sampled", drawn, formula)
        return np.where(self.source == "none", np.nan, chosen)

    @cached_property
    def nf_over_null(self) -> np.ndarray:
        """NF over its null, [L]; NaN where either is not defined."""
        known = self.nf_null > 0
        return np.divide(
            self.arrays.nf, self.nf_null, out=np.full(self.layers, np.nan), where=known
        )

    @property
    def verdict(self) -> str:
        """Where NF lies: ``below``, ``within``, ``above`` its null, ``untold``, ``undefined``."""
        return self.judged("nf")

    def judged(self, what: str) -> str:
        """The verdict on ``nf``, ``alpha`` or ``spread`` against changes of the same spectrum."""
        return verdict(self.pooled(what), self.draws)

    def placed(self, layer: int, what: str, kind: str = "spectrum") -> Against:
        """One layer's measurement among its draws."""
        draws = getattr(self.arrays, f"{what}_{kind}")[layer]
        return against(float(getattr(self.arrays, what)[layer]), draws)

    def pooled(self, what: str, kind: str = "spectrum") -> Against:
        """Mean of the sampled layers of ``nf``, ``alpha`` or ``spread`` among its draws."""
        draws = getattr(self.arrays, f"{what}_{kind}")
        return pooled(getattr(self.arrays, what), draws, self.arrays.sampled)

    def summary(self) -> dict[str, Any]:
        """The projection's entry in nulls.json."""
        return {
            "shape": list(self.shape),
            "layers": self.layers,
            "layers_sampled": int(self.arrays.sampled.sum()),
            "draws": self.draws,
            "sources": {name: int(np.sum(self.source == name)) for name in SOURCES},
            "unchanged_layers": int(self.unchanged.sum()),
            "layers_within_rounding": int(self.rounded.sum()),
            "delta_mean": _mean(self.arrays.delta),
            "nf_over_null": _mean(self.nf_over_null),
            "verdict": self.verdict,
            **{
                f"{what}_{kind}": self.pooled(what, kind)._asdict()
                for what in ("nf", "alpha", "spread")
                for kind in ("spectrum", "gaussian")
            },
        }


@dataclass(frozen=True)
class NullResults:
    """The nulls of a pair.

    Attributes:
      pair: its name.
      settings: draws, layers, seed.
      projections: by name.
    """

    pair: str
    settings: Mapping[str, Any]
    projections: Mapping[str, ProjectionNulls]

    @property
    def cost(self) -> dict[str, int]:
        """What was drawn: matrices sampled, draws of both kinds together."""
        matrices = sum(int(one.arrays.sampled.sum()) for one in self.projections.values())
        return {"matrices": matrices, "draws": 2 * int(self.settings["draws"]) * matrices}

    def save(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes ``nulls.npz``, then ``nulls.json``; returns the latter's path."""
        folder = pathlib.Path(directory)
        arrays: dict[str, np.ndarray] = {}
        for name, one in self.projections.items():
            arrays |= {member(name, key): value for key, value in one.arrays._asdict().items()}
            arrays |= {member(name, key): getattr(one, key) for key in ("nf_null", "source")}
        write_npz(folder / ARRAYS, arrays)
        entry = {
            "format_version": FORMAT_VERSION,
            "pair": self.pair,
            "settings": dict(self.settings),
            "cost": self.cost,
            "projections": {name: one.summary() for name, one in self.projections.items()},
        }
        return write_json(folder / SUMMARY, entry)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> NullResults:
        """Reads what `save` wrote.

        Raises:
          InputError: it is missing, damaged, or of another format version.
        """
        folder = pathlib.Path(directory)
        try:
            stored = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
            if stored["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version {stored['format_version']!r}")
            arrays = read_npz(folder / ARRAYS)
            projections = {
                name: ProjectionNulls(
                    name,
                    (entry["shape"][0], entry["shape"][1]),
                    NullArrays(**{key: arrays[member(name, key)] for key in NullArrays._fields}),
                )
                for name, entry in stored["projections"].items()
            }
            return cls(stored["pair"], stored["settings"], projections)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{folder / SUMMARY} is missing or damaged ({type(error).__name__}: {error}); run "
                "the sweep again in a new workdir"
            ) from error


def _mean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if kept.size else float("nan")
