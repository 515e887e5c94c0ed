"""Results of the analysis of a pair: small dataclasses of numpy arrays, and their files.

Axis legend: `L` layers, `E` experts, `R` rank, `C` corner. Arrays carry a leading `L`, of experts
`L, E` (every [L, ...] below is [L, E, ...] then); sigma descend; NF is NaN where a matrix is
numerically rank-deficient, `nf_rank` on the common rank stands beside it, and `nf_stored` on what
stands out of the rounding of the storage.

Files of one pair (``format_version`` 1):

* ``spectra.npz``: ``<projection>/sigma_base``, ``sigma_post``, ``svsm`` [L, R], ``nf``,
  ``nf_rank``, ``nf_stored``, ``stored_rank_base``, ``stored_rank_post``, ``alpha_ls``,
  ``corotation``, ``corotation_z``, ``corotation_p`` (two-sided, of each matrix alone),
  ``outside_share`` [L], ``nf_unrelated`` (scalar);
* ``vectors.npz``: ``<projection>/<field>`` for every other field of `PairMetrics` and ``alpha_ls``;
* ``summary.json``: see `Comparison.entries`.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from svdjax.engine.store import ADDED, NpzFiles, Results, array_name, in_npz
from svdjax.engine.text_table import html_table
from svdjax.errors import InputError, did_you_mean
from svdjax.spectra.axes import Axes
from svdjax.spectra.standout import StandOut, stand_outs
from svdjax.spectra.storage import Rounding, limited_layers, restricted, rounding_of
from svdjax.spectra.tables import FITS, ratio
from svdjax.spectral import PairMetrics, statistics

if TYPE_CHECKING:
    import pandas
    import xarray

SPECTRA = (
    *("sigma_base", "sigma_post", "svsm", "nf", "nf_rank"),
    *("stored_rank_base", "stored_rank_post", "nf_stored", "alpha_ls"),
    *("corotation", "corotation_z", "corotation_p", "outside_share", "nf_unrelated"),
)
VECTORS = tuple(key for key in PairMetrics._fields if key not in SPECTRA or key == "alpha_ls")
SUMMARY = "summary.json"
UNCERTAIN = 1e-5
_NPZ = {"vectors.npz": VECTORS, "spectra.npz": SPECTRA}


@dataclass(frozen=True, repr=False)
class ProjectionResult(Axes):
    """One projection type of a pair, all its layers and experts.

    Attributes:
        name: As in Hugging Face, ``q_proj``; a tensor's own name for unknown architectures.
        module: ``self_attn``, ``mlp`` or empty.
        shape: (in, out) of each matrix.
        layers: Number of layers `L`; `matrices` is that of matrices.
        metrics: Every field of `svdjax.spectral.PairMetrics`, leading axes [L] or [L, E].
        layer_numbers: Numbers of the layers in the model; by default 0, 1, ...
        expert_numbers: Numbers of the experts of every layer; empty where there are none.
    """

    name: str
    module: str
    shape: tuple[int, int]
    layers: int
    metrics: PairMetrics = field(metadata=in_npz(_NPZ))
    layer_numbers: tuple[int, ...] = field(default=(), metadata=ADDED)
    expert_numbers: tuple[int, ...] = field(default=(), metadata=ADDED)

    def __post_init__(self) -> None:
        if not self.layer_numbers:
            object.__setattr__(self, "layer_numbers", tuple(range(self.layers)))

    @cached_property
    def flat(self) -> ProjectionResult:
        """The same with arrays of all matrices, [M, ...], whether of experts or not."""
        if not self.expert_numbers or np.ndim(self.metrics.nf) == 1:
            return self
        metrics = PairMetrics(*map(self.flatten, self.metrics))
        return dataclasses.replace(self, metrics=metrics)

    @cached_property
    def statistics(self) -> statistics.SvsmStatistics:
        """Statistics of the scaling matrix (Table 3), over all layers and per layer."""
        return statistics.svsm_statistics(self.svsm)

    @property
    def layer_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation of the top 90 % of every layer's SVSM, of all its experts, [L]."""
        both = self.statistics.layer_mean, self.statistics.layer_std
        mean, std = (self.split(np.ravel(each)) for each in both)
        return statistics.pooled_moments(mean, std) if self.expert_numbers else (mean, std)

    @property
    def svsm(self) -> np.ndarray:
        """sigma_post / sigma_base (eq. 4), [L, R] or [L, E, R], as all below."""
        return np.asarray(self.metrics.svsm)

    @property
    def nf(self) -> np.ndarray:
        """NF of every layer, [L]; NaN where a matrix is rank-deficient."""
        return np.asarray(self.metrics.nf)

    @property
    def alpha_mean(self) -> float:
        """Mean of the SVSM over all layers and the top 90 % of the singular values."""
        return self.statistics.alpha_mean

    @property
    def alpha_std(self) -> float:
        """Population standard deviation that belongs to `alpha_mean`."""
        return self.statistics.alpha_std

    @property
    def alpha_prime(self) -> float:
        """`alpha_mean` rounded to one decimal (Table 4)."""
        return self.statistics.alpha_prime

    @property
    def nf_mean(self) -> float:
        """Mean NF over the layers that have one."""
        return _over(np.mean, self.nf)

    @property
    def nf_min(self) -> float:
        """Smallest NF over the layers that have one."""
        return _over(np.min, self.nf)

    @property
    def nf_max(self) -> float:
        """Largest NF over the layers that have one."""
        return _over(np.max, self.nf)

    @property
    def alpha_ls(self) -> np.ndarray:
        """alpha of every layer by least squares, <W_base, W_post> / ||W_base||^2, [L]."""
        return np.asarray(self.metrics.alpha_ls)

    @property
    def corotation(self) -> np.ndarray:
        """Co-rotation share c of every layer's change, [L].

        1 where both sides turn by the same rotation, 0 where they turn against each other, 1/2
        where the two have no relation beyond the magnitudes of the change; NaN where nothing was
        turned (`svdjax.spectral.corotation`).
        """
        return np.asarray(self.metrics.corotation)

    @property
    def corotation_z(self) -> np.ndarray:
        """c - 1/2 of every layer in standard deviations under random signs, [L]."""
        return np.asarray(self.metrics.corotation_z)

    @property
    def corotation_p(self) -> np.ndarray:
        """Two-sided p-value of every layer's c under random signs, each alone, [L]."""
        return np.asarray(self.metrics.corotation_p)

    @property
    def outside_share(self) -> np.ndarray:
        """Share of ||W_post - alpha W_base||^2 outside base's singular subspaces, [L].

        Not part of c. 0 for square matrices of full rank, NaN where nothing was changed.
        """
        return np.asarray(self.metrics.outside_share)

    @cached_property
    def corotation_pooled(self) -> statistics.PooledCorotation:
        """c over the pairs of directions of all layers, its z and p (of this projection alone).

        On the directions that storage carries, where it does not carry all.
        """
        m = self.carried.metrics
        values = (np.asarray(field) for field in (m.corotation, m.corotation_std, m.norm_offdiag))
        return statistics.pooled_corotation(*values)

    @property
    def corotation_mean(self) -> float:
        """Mean c over the layers that have one."""
        return _over(np.mean, self.corotation)

    @property
    def nf_unrelated(self) -> float:
        """The level of NF between unrelated matrices of this shape, sqrt(1/in + 1/out)."""
        return float(statistics.nf_unrelated(*self.shape))

    @property
    def rank_deficient(self) -> np.ndarray:
        """Which layers have a numerically rank-deficient base or post, bool [L]."""
        full = min(self.shape)
        ranks = np.minimum(np.asarray(self.metrics.rank_base), np.asarray(self.metrics.rank_post))
        return ranks < full

    @property
    def storage_limited(self) -> np.ndarray:
        """Layers with more than stray directions below the rounding of a side, bool [L].

        More than one and more than 1 % of R; see `svdjax.spectral.storage`.
        """
        return limited_layers(self)

    @cached_property
    def rounding(self) -> Rounding:
        """What rounding to the storage formats makes of the numbers."""
        return rounding_of(self)

    @cached_property
    def carried(self) -> ProjectionResult:
        """The projection on the directions that storage carries; itself where that is all."""
        return restricted(self)

    @property
    def ambiguous_rotation(self) -> np.ndarray:
        """Layers in which no common rotation is the nearest (`svdjax.spectral.fits`), bool [L].

        Their fit with it and the residuals of eq. 13 are NaN. False where it was not asked for.
        """
        m = self.metrics
        return np.isfinite(m.common_sigma_min) & np.isnan(m.residual_q1)

    @property
    def clustered(self) -> tuple[np.ndarray, np.ndarray]:
        """Singular values of base and of post whose vectors are arbitrary, bool [L, R] each."""
        m = self.metrics
        return (
            statistics.clustered(m.gap_base, m.sigma_base, m.sigma_error),
            statistics.clustered(m.gap_post, m.sigma_post, m.sigma_error),
        )

    @property
    def uncertain(self) -> np.ndarray:
        """Layers whose NF may be off by more than 1e-5 of the unrelated level, bool [L].

        The tolerance up to which Gram matrices are used (`svdjax.spectral.compare`); beyond it no
        route in double precision was good enough, or single precision was asked for.
        """
        return np.asarray(self.metrics.nf_error) > UNCERTAIN * self.nf_unrelated

    def summary(self) -> dict[str, Any]:
        """The projection's entry in summary.json; errors are as in `Comparison.entries`."""
        m = self.metrics
        sigma_1 = np.maximum(m.sigma_base[..., 0], m.sigma_post[..., 0])
        layer_mean, layer_std = self.layer_moments
        norm_post = np.asarray(m.norm_post)
        return {
            "shape": list(self.shape),
            "layers": self.layers,
            "experts": self.experts,
            **self.numbered(),
            "module": self.module,
            "alpha_mean": self.alpha_mean,
            "alpha_std": self.alpha_std,
            "alpha_prime": self.alpha_prime,
            "alpha_layer_mean": layer_mean,
            "alpha_layer_std": layer_std,
            "svsm_nan": int(np.isnan(self.svsm).sum()),
            "nf_mean": self.nf_mean,
            "nf_std": _over(np.std, self.nf),
            "nf_min": self.nf_min,
            "nf_max": self.nf_max,
            "nf_unrelated": self.nf_unrelated,
            "nf_over_unrelated": self.nf_mean / self.nf_unrelated,
            "nf_rank_mean": _over(np.mean, m.nf_rank),
            "rank_deficient_layers": int(self.rank_deficient.sum()),
            "storage_limited_layers": int(self.storage_limited.sum()),
            "stored_rank_base_min": int(np.min(m.stored_rank_base)),
            "stored_rank_post_min": int(np.min(m.stored_rank_post)),
            "alpha_stored_mean": self.carried.alpha_mean,
            "alpha_stored_std": self.carried.alpha_std,
            "nf_stored_mean": _over(np.mean, m.nf_stored),
            "nf_rounding_max": _over(np.max, m.nf_rounding),
            "sigma_rounding_max": _over(np.max, ratio(m.sigma_rounding, sigma_1)),
            "change_rounding_max": _over(np.max, self.carried.rounding.change),
            "alpha_rounding_max": _over(np.max, self.carried.rounding.alpha),
            "corotation_rounding_max": _over(np.max, self.carried.rounding.corotation),
            "hidden_layers": int(self.carried.rounding.hidden.sum()),
            "sigma_error_max": _over(np.max, ratio(m.sigma_error, sigma_1)),
            "svsm_error_max": _over(np.max, self._svsm_error()),
            "nf_error_max": _over(np.max, m.nf_error),
            "uncertain_layers": int(self.uncertain.sum()),
            "alpha_ls_mean": _over(np.mean, self.alpha_ls),
            "corotation_mean": self.corotation_mean,
            "corotation_min": _over(np.min, self.corotation),
            "corotation_max": _over(np.max, self.corotation),
            "corotation_pooled": self.corotation_pooled.share,
            "corotation_z": self.corotation_pooled.z,
            "corotation_p_alone": self.corotation_pooled.p,
            "corotation_error_max": _over(np.max, m.corotation_error),
            "corotation_layers": int(np.isfinite(self.corotation).sum()),
            "outside_share_mean": _over(np.mean, self.outside_share),
            "ambiguous_rotation_layers": int(self.ambiguous_rotation.sum()),
            "delta_mean": _over(np.mean, ratio(m.norm_delta, norm_post)),
            "small_delta_share": _over(np.mean, m.small_delta_share),
            "fits": {
                name: {
                    "alpha_mean": _over(np.mean, getattr(m, f"fit_{name}_alpha")),
                    "error_mean": _over(np.mean, getattr(m, f"fit_{name}_error")),
                }
                for name in FITS
            },
        }

    def _svsm_error(self) -> np.ndarray:
        """Absolute error of the top 90 % of the SVSM that `sigma_error` lets through, [L, R']."""
        top = statistics.top_count(self.svsm.shape[-1])
        error = np.asarray(self.metrics.sigma_error)[..., None]
        return (1 + self.svsm[..., :top]) * ratio(error, self.metrics.sigma_base[..., :top])

    def __repr__(self) -> str:
        return (
            f"ProjectionResult({self.name} {self.shape[0]}x{self.shape[1]}, {self.layers} layers"
            f"{f' of {self.experts} experts' if self.expert_numbers else ''}, "
            f"alpha {self.alpha_mean:.4f} ± {self.alpha_std:.4f}, NF {self.nf_mean:.4g} "
            f"of {self.nf_unrelated:.4g} unrelated)"
        )


@dataclass(frozen=True, repr=False)
class Comparison(Results):
    """The whole analysis of one pair of checkpoints.

    Attributes:
        pair: Name of the pair.
        base: Where the base came from, as the user wrote it.
        post: Where the post-trained checkpoint came from, as the user wrote it.
        family: Model type, ``unknown`` for architectures without a name table.
        coverage: Every tensor of both sides, analysed or left out with the reason.
        projections: Results by projection name, in the order q, k, v, o, gate, up, down.
        options: How it was computed: factorisation, corner, split_fused.
        folder: Directory that it was read from.
    """

    FILE = SUMMARY
    DAMAGED = "{folder} holds damaged results"

    pair: str
    base: str
    post: str
    family: str
    coverage: Mapping[str, Any]
    projections: dict[str, ProjectionResult]
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: pathlib.Path | None = field(default=None, compare=False, metadata=ADDED)

    def __getitem__(self, projection: str) -> ProjectionResult:
        if projection not in self.projections:
            names = list(self.projections)
            hint = did_you_mean(projection, names) or f"; there are {', '.join(names[:20])}"
            raise KeyError(f"no projection {projection!r}{hint}")
        return self.projections[projection]

    def __contains__(self, projection: object) -> bool:
        return projection in self.projections

    def __iter__(self) -> Iterator[str]:
        return iter(self.projections)

    @cached_property
    def corotation_p(self) -> dict[str, float]:
        """Two-sided p of every projection's pooled c, corrected for their number by Holm's method.

        NaN for a projection without a co-rotation share, which does not count.
        """
        alone = [result.corotation_pooled.p for result in self.projections.values()]
        return dict(zip(self.projections, statistics.holm(alone).tolist()))

    @cached_property
    def stands_out(self) -> tuple[StandOut, ...]:
        """Matrices that stand out from the neighbouring layers, one entry for each metric."""
        return stand_outs(self.projections.values())

    def entries(self) -> dict[str, Any]:
        """Entries of summary.json.

        ``stands_out`` lists the matrices that differ from those of the neighbouring layers,
        ``verdicts`` the answers of the page's first screen (`svdjax.spectra.verdicts`), by what
        the spectra alone tell: the page has those of the nulls stage too.
        ``sigma_error_max`` is relative to sigma_1, ``svsm_error_max`` and ``nf_error_max`` are
        absolute, all three estimates of the factorisation's own error, the largest of any layer.
        ``sigma_rounding_max`` and ``nf_rounding_max`` estimate, in the same units, what rounding
        to the storage dtype makes; ``alpha_stored_mean`` is `alpha_mean` with layers in
        `storage_limited` on the directions that storage carries.
        ``delta_mean`` is the mean of ||post - alpha base||_F / ||post||_F; fit errors are
        relative (eq. 8, docs/mathematics.md section 4). ``corotation_mean`` is the mean c of the
        layers, ``corotation_pooled`` c over the pairs of directions of all layers, to which
        ``corotation_z``, ``corotation_p_alone`` and ``corotation_p`` (corrected by Holm's method)
        belong.
        """
        projections = {
            name: {**result.summary(), "corotation_p": self.corotation_p[name]}
            for name, result in self.projections.items()
        }
        deficient = sum(entry["rank_deficient_layers"] for entry in projections.values())
        return {
            "pair": self.pair,
            "base": self.base,
            "post": self.post,
            "family": self.family,
            "options": self.options,
            "rank_deficient_layers": deficient,
            "projections": projections,
            "stands_out": [entry.entry() for entry in self.stands_out],
            "verdicts": self._verdicts(),
            "coverage": self.coverage,
        }

    def _verdicts(self) -> dict[str, dict[str, str]]:
        from svdjax.spectra.verdicts import pair_verdicts  # which rests on this module

        return {
            one.key: {"answer": one.answer, "detail": one.detail} for one in pair_verdicts(self)
        }

    def save(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes the three files of the module docstring, each whole; returns the directory."""
        return super().save(directory).parent

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Comparison:
        """Results as `save` wrote them.

        Raises:
            InputError: A file is missing, damaged, or of another format version.
        """
        for file in (SUMMARY, *_NPZ):
            if not (pathlib.Path(directory) / file).is_file():
                raise InputError(f"{directory} is not the result of a sweep: it has no {file}")
        return dataclasses.replace(super().load(directory), folder=pathlib.Path(directory))

    @classmethod
    def _complete(cls, stored: Any, arrays: NpzFiles) -> None:
        held = ChainMap(*(arrays[file] for file in _NPZ))
        for name in stored["projections"]:
            for key in PairMetrics._fields:
                if array_name(name, key) not in held:
                    raise InputError(
                        f"{arrays.folder}: neither spectra.npz nor vectors.npz holds "
                        f"{array_name(name, key)!r}, which this svdjax computes; run the sweep "
                        "again in a new workdir"
                    )

    def to_dataframe(self) -> pandas.DataFrame:
        """A row for each matrix: pair, projection, layer, and what tables/layers.csv has of it.

        Raises:
            InputError: pandas is not installed.
        """
        from svdjax.spectra.frames import to_dataframe

        return to_dataframe([self])

    def to_xarray(self) -> xarray.Dataset:
        """Every array, with dimensions pair, projection, layer and direction, or row and column.

        Raises:
            InputError: xarray is not installed.
        """
        from svdjax.spectra.frames import to_xarray

        return to_xarray([self])

    def show(self) -> pathlib.Path:
        """Opens the page in a browser, made where there is none yet; returns its path."""
        from svdjax.spectra.frames import show

        return show(self)

    def __repr__(self) -> str:
        from svdjax.spectra.frames import overview

        rows = overview(self)
        first, *widths = (max(map(len, column)) for column in zip(*rows))
        lines = [
            "  ".join([name.ljust(first), *map(str.rjust, cells, widths)]) for name, *cells in rows
        ]
        return "\n".join([self._head(), *lines])

    def _repr_html_(self) -> str:
        from svdjax.spectra.frames import overview

        return html_table(overview(self), self._head())

    def _head(self) -> str:
        return f"Comparison {self.pair}: {self.base} -> {self.post} ({self.family})"


def _over(reduce: Any, values: Any) -> float:
    """`reduce` over the values that are not NaN; NaN if there are none."""
    array = np.asarray(values, dtype=np.float64)
    known = array[~np.isnan(array)]
    return float(reduce(known)) if known.size else math.nan
