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
from svdjax.engine.store import FORMAT_VERSION
from svdjax.errors import InputError
from svdjax.nulls.analytic import UNCHANGED
from svdjax.nulls.verdicts import Judgement, NullTest, judge, null_test, pooled_test
from svdjax.spectra.results import member
from svdjax.spectral.null_draws import KINDS

ARRAYS, SUMMARY = "nulls.npz", "nulls.json"
SOURCES = ("sampled", "first_order", "all_orders", "none")
MEASURES = ("nf", "alpha", "spread", "scaling")
"""What is held against draws; ``scaling`` is ``alpha`` against changes without any scaling."""
NEARLY_ALL = 0.9
"""Size of a change, relative to W_post, from which there is no factor to speak of."""
_DRAWN = ("nf", "alpha", "spread")


class NullArrays(NamedTuple):
    """The arrays of a projection; in nulls.npz as ``<projection>/<name>``.

    ``signs``: the real change with random signs of its rows and columns in base's singular frame,
    which judges NF and SVSM: did both sides turn together? ``spectrum``: its singular values,
    random singular vectors. ``gaussian``: normal entries, its norm. The last two tell where the
    change lies (concentration).

    Attributes:
      nf: NF as measured, [L].
      alpha: mean scaling of the top 90 % of the singular values as measured, [L].
      spread: population standard deviation of the same, [L].
      alpha_ls: alpha by least squares, which no random change moves in the mean, [L].
      delta: ||W_post - alpha W_base||_F / ||W_post||_F, [L].
      rounding: what of that the storage dtype's rounding alone would make, [L].
      nf_first_order: NF of a change in random directions, to first order, [L].
      nf_all_orders: the same of a Gaussian change over all orders, [L].
      first_order_holds: bool [L].
      all_orders_hold: bool [L].
      sampled: which layers were, bool [L].
      sigma_delta: singular values of the real change, [L, R].
      top_half: share of ||Delta||_F^2 between the leading halves of base's singular vectors of
        both sides, [L]; see `uniform_top_half`.
      nf_signs: NF of every draw with random signs, [L, D].
      alpha_signs: as alpha, [L, D].
      spread_signs: as spread, [L, D].
      svsm_mean_signs: mean over the draws of each sigma_draw / sigma_base, [L, R].
      svsm_std_signs: standard deviation over the draws, [L, R].
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
    alpha_ls: np.ndarray
    delta: np.ndarray
    rounding: np.ndarray
    nf_first_order: np.ndarray
    nf_all_orders: np.ndarray
    first_order_holds: np.ndarray
    all_orders_hold: np.ndarray
    sampled: np.ndarray
    sigma_delta: np.ndarray
    top_half: np.ndarray
    nf_signs: np.ndarray
    alpha_signs: np.ndarray
    spread_signs: np.ndarray
    svsm_mean_signs: np.ndarray
    svsm_std_signs: np.ndarray
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
        """NF of a change in random directions: mean of the ``spectrum`` draws, or a formula, [L].

        It measures concentration; co-rotation is judged by the ``signs`` draws.
        """
        a = self.arrays
        formula = np.where(a.first_order_holds, a.nf_first_order, a.nf_all_orders)
        drawn = a.nf_spectrum.mean(axis=1) if self.draws else formula
        chosen = np.where(self.source == "sampled", drawn, formula)
        return np.where(self.source == "none", np.nan, chosen)

    @cached_property
    def nf_over_null(self) -> np.ndarray:
        """NF over `nf_null`, [L]: below 1 the change lies where it turns little."""
        return _over(self.arrays.nf, self.nf_null)

    @cached_property
    def nf_over_signs(self) -> np.ndarray:
        """NF over the mean of the ``signs`` draws, [L]: below 1 both sides turned together."""
        draws = self.arrays.nf_signs
        mean = draws.mean(axis=1) if self.draws else np.full(self.layers, np.nan)
        return _over(self.arrays.nf, mean)

    @property
    def uniform_top_half(self) -> float:
        """What `NullArrays.top_half` is of a change in random directions."""
        return (min(self.shape) // 2) ** 2 / (self.shape[0] * self.shape[1])

    def drawn(self, what: str, kind: str = "signs") -> np.ndarray:
        """The draws that one of `MEASURES` is held against, [L, D].

        Those of ``scaling`` are the draws of ``alpha`` over the least-squares alpha: exactly the
        SVSM mean of ``W_base + Delta / alpha``, a change as large without any scaling; NaN where
        that alpha is not positive or the change is nearly all of W_post (`NEARLY_ALL`).
        """
        if what != "scaling":
            return getattr(self.arrays, f"{what}_{kind}")
        ls = self.arrays.alpha_ls
        related = (ls > 0) & (self.arrays.delta < NEARLY_ALL)
        return getattr(self.arrays, f"alpha_{kind}") / np.where(related, ls, np.nan)[:, None]

    def measured(self, what: str) -> np.ndarray:
        """What was measured of one of `MEASURES`, [L]."""
        return getattr(self.arrays, "alpha" if what == "scaling" else what)

    def placed(self, layer: int, what: str, kind: str = "signs") -> NullTest:
        """One layer's measurement among its draws."""
        return null_test(float(self.measured(what)[layer]), self.drawn(what, kind)[layer])

    def pooled(self, what: str, kind: str = "signs") -> NullTest:
        """Mean of the sampled layers of one of `MEASURES` among its draws."""
        return pooled_test(self.measured(what), self.drawn(what, kind), self.arrays.sampled)

    def summary(self, judgements: Mapping[str, Judgement]) -> dict[str, Any]:
        """The projection's entry in nulls.json.

        Args:
          judgements: of this projection, by measure; see `NullResults.judgements`.
        """
        return {
            "shape": list(self.shape),
            "layers": self.layers,
            "layers_sampled": int(self.arrays.sampled.sum()),
            "draws": self.draws,
            "sources": {name: int(np.sum(self.source == name)) for name in SOURCES},
            "unchanged_layers": int(self.unchanged.sum()),
            "layers_within_rounding": int(self.rounded.sum()),
            "delta_mean": _mean(self.arrays.delta),
            "alpha_ls": _mean(self.arrays.alpha_ls),
            "nf_over_null": _mean(self.nf_over_null),
            "nf_over_signs": _mean(self.nf_over_signs),
            "top_half": _mean(self.arrays.top_half),
            "top_half_uniform": self.uniform_top_half,
            "verdict": judgements["nf"].verdict,
            "p_corrected": judgements["nf"].p,
            "verdict_scaling": judgements["scaling"].verdict,
            "p_corrected_scaling": judgements["scaling"].p,
            "verdict_spread": judgements["spread"].verdict,
            "p_corrected_spread": judgements["spread"].p,
            "scaling_signs": self.pooled("scaling")._asdict(),
            **{
                f"{what}_{kind}": self.pooled(what, kind)._asdict()
                for what in _DRAWN
                for kind in KINDS
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
        """What was drawn: matrices sampled, draws of all kinds together."""
        matrices = sum(int(one.arrays.sampled.sum()) for one in self.projections.values())
        return {"matrices": matrices, "draws": len(KINDS) * int(self.settings["draws"]) * matrices}

    @cached_property
    def judgements(self) -> Mapping[str, Mapping[str, Judgement]]:
        """What is said of each projection by its ``signs`` draws: by projection, then measure.

        Each measure is one family of tests, corrected for the number of projections.
        """
        names = list(self.projections)
        every: dict[str, dict[str, Judgement]] = {name: {} for name in names}
        for what in ("nf", "spread", "scaling"):
            places = [self.projections[name].pooled(what) for name in names]
            for name, judgement in zip(names, judge(places, int(self.settings["draws"]))):
                every[name][what] = judgement
        return every

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
            "projections": {
                name: one.summary(self.judgements[name]) for name, one in self.projections.items()
            },
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
                    _read(arrays, name),
                )
                for name, entry in stored["projections"].items()
            }
            return cls(stored["pair"], stored["settings"], projections)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{folder / SUMMARY} is missing or damaged ({type(error).__name__}: {error}); run "
                "the sweep again in a new workdir"
            ) from error


def _read(arrays: Mapping[str, np.ndarray], name: str) -> NullArrays:
    """The arrays of a projection; what files from before there were ``signs`` lack is NaN."""
    stored = {
        key: arrays[member(name, key)]
        for key in NullArrays._fields
        if not (key.endswith("_signs") or key in ("alpha_ls", "top_half"))
        or member(name, key) in arrays
    }
    for key in NullArrays._fields:
        if key not in stored:
            like = stored[key.replace("_signs", "_spectrum") if "_signs" in key else "nf"]
            stored[key] = np.full(like.shape, np.nan)
    return NullArrays(**stored)


def _over(values: np.ndarray, by: np.ndarray) -> np.ndarray:
    """values / by; NaN where `by` is not positive."""
    return np.divide(values, by, out=np.full(len(values), np.nan), where=by > 0)


def _mean(values: np.ndarray) -> float:
    kept = values[np.isfinite(values)]
    return float(kept.mean()) if kept.size else float("nan")
