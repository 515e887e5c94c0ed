"""Results of the nulls stage for a pair: nulls.npz, and nulls.json with what follows from it.

Axis legend: `L` layers, `E` experts, `R` rank, `D` draws. Of experts every [L, ...] is [L, E, ...].
Rows of matrices that were not sampled are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from svdjax.engine.store import ADDED, NpzFiles, Results, array_name, in_npz
from svdjax.nulls.analytic import UNCHANGED
from svdjax.nulls.verdicts import Judgement, NullTest, judge, null_test, pooled_test
from svdjax.spectra.axes import Axes
from svdjax.spectra.tables import over, ratio
from svdjax.spectral.null_draws import KINDS

ARRAYS = "nulls.npz"
SOURCES = ("sampled", "first_order", "all_orders", "none")
MEASURES = ("nf", "alpha", "spread", "scaling")
"""What is compared with draws; ``scaling`` is ``alpha`` against changes without any scaling."""
NEARLY_ALL = 0.9
"""Size of a change, relative to W_post, from which there is no factor to speak of."""
_DRAWN = ("nf", "alpha", "spread")


class NullArrays(NamedTuple):
    """Arrays of a projection; in nulls.npz as ``<projection>/<name>``.

    ``signs``: the real change with random signs of its rows and columns in base's singular frame,
    which judges NF and SVSM: did both sides turn together? ``spectrum``: its singular values,
    random singular vectors. ``gaussian``: normal entries, its norm. The last two tell where the
    change lies (concentration).

    Attributes:
        nf: NF as measured, [L].
        alpha: Mean scaling of the top 90 % of the singular values as measured, [L].
        spread: Population standard deviation of that scaling, [L].
        alpha_ls: alpha by least squares, which no random change moves in the mean, [L].
        delta: ||W_post - alpha W_base||_F / ||W_post||_F, [L].
        rounding: The part of delta that the storage dtype's rounding alone would make, [L].
        nf_first_order: NF of a change in random directions, to first order, [L].
        nf_all_orders: NF of a Gaussian change over all orders, [L].
        first_order_holds: Where nf_first_order may be used, bool [L].
        all_orders_hold: Where nf_all_orders may be used, bool [L].
        sampled: Which layers were, bool [L].
        sigma_delta: Singular values of the real change, [L, R].
        top_half: Share of ||Delta||_F^2 between the leading halves of base's singular vectors of
            both sides, [L]; see `ProjectionNulls.uniform_top_half`.
        nf_signs, nf_spectrum, nf_gaussian: NF of every draw of each kind, [L, D].
        alpha_signs, alpha_spectrum, alpha_gaussian: alpha of every draw, [L, D].
        spread_signs, spread_spectrum, spread_gaussian: Spread of every draw, [L, D].
        svsm_mean_signs, svsm_mean_spectrum, svsm_mean_gaussian: Mean over the draws of each
            sigma_draw / sigma_base, [L, R].
        svsm_std_signs, svsm_std_spectrum, svsm_std_gaussian: Its standard deviation over the draws,
            [L, R].
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
class ProjectionNulls(Axes):
    """Null models of one projection.

    Attributes:
        name: Name of the projection.
        shape: (in, out).
        arrays: What was measured and drawn.
        layer_numbers: Numbers of the layers in the model; by default 0, 1, ...
        expert_numbers: Numbers of the experts of every layer; empty where there are none.
    """

    name: str
    shape: tuple[int, int]
    arrays: NullArrays = field(
        metadata=in_npz({ARRAYS: (*NullArrays._fields, "nf_null", "source")})
    )
    layer_numbers: tuple[int, ...] = field(default=(), metadata=ADDED)
    expert_numbers: tuple[int, ...] = field(default=(), metadata=ADDED)

    def __post_init__(self) -> None:
        if not self.layer_numbers:
            object.__setattr__(self, "layer_numbers", tuple(range(len(self.arrays.nf))))

    @property
    def layers(self) -> int:
        """Number of layers, `L`."""
        return len(self.layer_numbers)

    @cached_property
    def flat(self) -> ProjectionNulls:
        """The same with arrays of all matrices, [M, ...], whether of experts or not."""
        if not self.expert_numbers or np.ndim(self.arrays.nf) == 1:
            return self
        return replace(self, arrays=NullArrays(*map(self.flatten, self.arrays)))

    @property
    def draws(self) -> int:
        """Number of draws, `D`."""
        return self.arrays.nf_spectrum.shape[-1]

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
        drawn = a.nf_spectrum.mean(axis=-1) if self.draws else formula
        chosen = np.where(self.source == "sampled", drawn, formula)
        return np.where(self.source == "none", np.nan, chosen)

    @cached_property
    def nf_over_null(self) -> np.ndarray:
        """NF over `nf_null`, [L]: below 1 the change lies where it turns little."""
        return ratio(self.arrays.nf, self.nf_null)

    @cached_property
    def nf_over_signs(self) -> np.ndarray:
        """NF over the mean of the ``signs`` draws, [L]: below 1 both sides turned together."""
        draws = self.arrays.nf_signs
        mean = draws.mean(axis=-1) if self.draws else np.full(draws.shape[:-1], np.nan)
        return ratio(self.arrays.nf, mean)

    @property
    def uniform_top_half(self) -> float:
        """`NullArrays.top_half` of a change in random directions."""
        return (min(self.shape) // 2) ** 2 / (self.shape[0] * self.shape[1])

    def drawn(self, what: str, kind: str = "signs") -> np.ndarray:
        """Draws that one of `MEASURES` is compared with, [L, D].

        For ``scaling`` they are the draws of ``alpha`` over the least-squares alpha: exactly the
        SVSM mean of ``W_base + Delta / alpha``, a change as large without any scaling; NaN where
        that alpha is not positive or the change is nearly all of W_post (`NEARLY_ALL`).
        """
        if what != "scaling":
            return getattr(self.arrays, f"{what}_{kind}")
        ls = self.arrays.alpha_ls
        related = (ls > 0) & (self.arrays.delta < NEARLY_ALL)
        return getattr(self.arrays, f"alpha_{kind}") / np.where(related, ls, np.nan)[..., None]

    def measured(self, what: str) -> np.ndarray:
        """Measured values of one of `MEASURES`, [L]."""
        return getattr(self.arrays, "alpha" if what == "scaling" else what)

    def placed(self, matrix: int, what: str, kind: str = "signs") -> NullTest:
        """One matrix's measurement among its draws, of the `flat` nulls."""
        return null_test(float(self.measured(what)[matrix]), self.drawn(what, kind)[matrix])

    def pooled(self, what: str, kind: str = "signs") -> NullTest:
        """Mean of the sampled layers of one of `MEASURES` among its draws."""
        return pooled_test(self.measured(what), self.drawn(what, kind), self.arrays.sampled)

    def summary(self, judgements: Mapping[str, Judgement]) -> dict[str, Any]:
        """Entry of the projection in nulls.json.

        Args:
            judgements: Verdicts on this projection, by measure; see `NullResults.judgements`.
        """
        return {
            "shape": list(self.shape),
            "layers": self.layers,
            **({"experts": self.experts} if self.expert_numbers else {}),
            **self.numbered(),
            "layers_sampled": int(self.arrays.sampled.sum()),
            "draws": self.draws,
            "sources": {name: int(np.sum(self.source == name)) for name in SOURCES},
            "unchanged_layers": int(self.unchanged.sum()),
            "layers_within_rounding": int(self.rounded.sum()),
            "delta_mean": over(np.mean, self.arrays.delta),
            "alpha_ls": over(np.mean, self.arrays.alpha_ls),
            "nf_over_null": over(np.mean, self.nf_over_null),
            "nf_over_signs": over(np.mean, self.nf_over_signs),
            "top_half": over(np.mean, self.arrays.top_half),
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
class NullResults(Results):
    """Null models of a pair.

    Attributes:
        pair: Name of the pair.
        settings: ``draws``, ``layers``, ``seed``.
        projections: Null models by projection name.
    """

    FILE = "nulls.json"

    pair: str
    settings: Mapping[str, Any]
    projections: Mapping[str, ProjectionNulls]

    @property
    def cost(self) -> dict[str, int]:
        """Number of matrices sampled, and of draws of all kinds together."""
        matrices = sum(int(nulls.arrays.sampled.sum()) for nulls in self.projections.values())
        return {"matrices": matrices, "draws": len(KINDS) * int(self.settings["draws"]) * matrices}

    @cached_property
    def judgements(self) -> Mapping[str, Mapping[str, Judgement]]:
        """Verdicts on each projection by its ``signs`` draws: by projection, then measure.

        Each measure is one family of tests, corrected for the number of projections.
        """
        names = list(self.projections)
        every: dict[str, dict[str, Judgement]] = {name: {} for name in names}
        for what in ("nf", "spread", "scaling"):
            places = [self.projections[name].pooled(what) for name in names]
            for name, judgement in zip(names, judge(places, int(self.settings["draws"]))):
                every[name][what] = judgement
        return every

    def entries(self) -> dict[str, Any]:
        """Entries of nulls.json: of each projection what follows from its arrays."""
        return {
            "pair": self.pair,
            "settings": self.settings,
            "cost": self.cost,
            "projections": {
                name: nulls.summary(self.judgements[name])
                for name, nulls in self.projections.items()
            },
        }

    @classmethod
    def _complete(cls, stored: Any, arrays: NpzFiles) -> None:
        # Files from before there were signs lack these; they are NaN.
        held = arrays[ARRAYS]
        for name in stored["projections"]:
            for key in NullArrays._fields:
                if array_name(name, key) in held:
                    continue
                if key.endswith("_signs"):
                    like = held[array_name(name, key.replace("_signs", "_spectrum"))]
                elif key in ("alpha_ls", "top_half"):
                    like = held[array_name(name, "nf")]
                else:
                    continue
                held[array_name(name, key)] = np.full(like.shape, np.nan)
