"""What the analysis of a pair leaves: small dataclasses of numpy arrays, and their files.

Axis legend: `L` layers, `R` rank, `C` corner. Arrays carry a leading `L`; sigma descend; NF is NaN
where a matrix is numerically rank-deficient, `nf_rank` on the common rank stands beside it.

Files of one pair (``format_version`` 1):

* ``spectra.npz``: ``<projection>/sigma_base``, ``sigma_post``, ``svsm`` [L, R], ``nf``,
  ``nf_rank`` [L], ``nf_unrelated`` (scalar);
* ``vectors.npz``: ``<projection>/<field>`` for every other field of `PairMetrics`;
* ``summary.json``: see `Comparison.summary`.
"""

from __future__ import annotations

import json
import os
import pathlib
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from svdjax.atomic import plain, read_npz, write_json, write_npz
from svdjax.errors import InputError
from svdjax.spectral import PairMetrics, statistics

FORMAT_VERSION = 1
SPECTRA = ("sigma_base", "sigma_post", "svsm", "nf", "nf_rank")
UNCERTAIN = 1e-5
FITS = ("identity", "q1", "q2", "common", "optimal")
_FILES = ("summary.json", "spectra.npz", "vectors.npz")


@dataclass(frozen=True, repr=False)
class ProjectionResult:
    """One projection type of a pair, all its layers.

    Attributes:
      name: as in Hugging Face, ``q_proj``; a tensor's own name for unknown architectures.
      module: ``self_attn``, ``mlp`` or empty.
      shape: (in, out) of each matrix.
      layers: number of matrices `L`.
      metrics: every field of `svdjax.spectral.PairMetrics`, leading axis `L`.
    """

    name: str
    module: str
    shape: tuple[int, int]
    layers: int
    metrics: PairMetrics

    @cached_property
    def statistics(self) -> statistics.SvsmStatistics:
        """Statistics of the scaling matrix (Table 3), over all layers and per layer."""
        return statistics.svsm_statistics(self.svsm)

    @property
    def svsm(self) -> np.ndarray:
        """sigma_post / sigma_base (eq. 4), [L, R]."""
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
    def uncertain(self) -> np.ndarray:
        """Layers whose NF may be off by more than 1e-5 of the unrelated level, bool [L].

        The tolerance up to which Gram matrices are used (`svdjax.spectral.relation`); beyond it no
        route in double precision was good enough, or single precision was asked for.
        """
        return np.asarray(self.metrics.nf_error) > UNCERTAIN * self.nf_unrelated

    def summary(self) -> dict[str, Any]:
        """The projection's entry in summary.json; errors are as in `Comparison.summary`."""
        m = self.metrics
        sigma_1 = np.maximum(m.sigma_base[:, 0], m.sigma_post[:, 0])
        norm_post = np.asarray(m.norm_post)
        return {
            "shape": list(self.shape),
            "layers": self.layers,
            "module": self.module,
            "alpha_mean": self.alpha_mean,
            "alpha_std": self.alpha_std,
            "alpha_prime": self.alpha_prime,
            "alpha_layer_mean": self.statistics.layer_mean,
            "alpha_layer_std": self.statistics.layer_std,
            "svsm_nan": int(np.isnan(self.svsm).sum()),
            "nf_mean": self.nf_mean,
            "nf_std": _over(np.std, self.nf),
            "nf_min": self.nf_min,
            "nf_max": self.nf_max,
            "nf_unrelated": self.nf_unrelated,
            "nf_over_unrelated": self.nf_mean / self.nf_unrelated,
            "nf_rank_mean": _over(np.mean, m.nf_rank),
            "rank_deficient_layers": int(self.rank_deficient.sum()),
            "sigma_error_max": _over(np.max, _ratio(m.sigma_error, sigma_1)),
            "svsm_error_max": _over(np.max, self._svsm_error()),
            "nf_error_max": _over(np.max, m.nf_error),
            "uncertain_layers": int(self.uncertain.sum()),
            "delta_mean": _over(np.mean, _ratio(m.norm_delta, norm_post)),
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
        error = np.asarray(self.metrics.sigma_error)[:, None]
        return (1 + self.svsm[:, :top]) * _ratio(error, self.metrics.sigma_base[:, :top])

    def __repr__(self) -> str:
        return (
            f"ProjectionResult({self.name} {self.shape[0]}x{self.shape[1]}, {self.layers} layers, "
            f"alpha {self.alpha_mean:.4f} ± {self.alpha_std:.4f}, NF {self.nf_mean:.4g} "
            f"of {self.nf_unrelated:.4g} unrelated)"
        )


@dataclass(frozen=True, repr=False)
class Comparison:
    """The whole analysis of one pair of checkpoints.

    Attributes:
      pair: name of the pair.
      base: where the base came from, as the user wrote it.
      post: likewise the post-trained one.
      family: model type, ``unknown`` for architectures without a name table.
      coverage: every tensor of both sides, analysed or left out with the reason.
      projections: results by projection name, in the order q, k, v, o, gate, up, down.
      options: how it was computed: factorisation, corner, split_fused.
    """

    pair: str
    base: str
    post: str
    family: str
    coverage: Mapping[str, Any]
    projections: dict[str, ProjectionResult]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, projection: str) -> ProjectionResult:
        return self.projections[projection]

    def summary(self) -> dict[str, Any]:
        """Returns what summary.json holds, JSON-able (NaN is None).

        ``sigma_error_max`` is relative to sigma_1, ``svsm_error_max`` and ``nf_error_max`` are
        absolute, all three estimates of the factorisation's own error, the largest of any layer.
        ``delta_mean`` is the mean of ||post - alpha base||_F / ||post||_F; fit errors are
        relative (eq. 8, docs/mathematics.md).
        """
        projections = {name: result.summary() for name, result in self.projections.items()}
        return plain(
            {
                "format_version": FORMAT_VERSION,
                "pair": self.pair,
                "base": self.base,
                "post": self.post,
                "family": self.family,
                "options": self.options,
                "rank_deficient_layers": sum(
                    entry["rank_deficient_layers"] for entry in projections.values()
                ),
                "projections": projections,
                "coverage": self.coverage,
            }
        )

    def save(self, directory: str | os.PathLike[str]) -> pathlib.Path:
        """Writes the three files of the module docstring, each whole; returns the directory."""
        folder = pathlib.Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        spectra: dict[str, Any] = {}
        vectors: dict[str, Any] = {}
        for name, result in self.projections.items():
            for key, value in result.metrics._asdict().items():
                (spectra if key in SPECTRA else vectors)[member(name, key)] = value
            spectra[member(name, "nf_unrelated")] = np.float64(result.nf_unrelated)
        write_npz(folder / "vectors.npz", vectors)
        write_npz(folder / "spectra.npz", spectra)
        write_json(folder / "summary.json", self.summary())
        return folder

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Comparison:
        """Reads what `save` wrote.

        Raises:
          InputError: a file is missing, damaged, or of another format version.
        """
        folder = pathlib.Path(directory)
        for name in _FILES:
            if not (folder / name).is_file():
                raise InputError(f"{folder} is not the result of a sweep: it has no {name}")
        try:
            return cls._read(folder)
        except (ValueError, KeyError, TypeError, OSError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{folder} holds damaged results ({type(error).__name__}: {error}); "
                "run the sweep again in a new workdir"
            ) from error

    @classmethod
    def _read(cls, folder: pathlib.Path) -> Comparison:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if summary.get("format_version") != FORMAT_VERSION:
            raise InputError(
                f"{folder / 'summary.json'} has format_version {summary.get('format_version')!r}, "
                f"this svdjax reads {FORMAT_VERSION}"
            )
        arrays: dict[str, np.ndarray] = {}
        for file in ("spectra.npz", "vectors.npz"):
            arrays |= read_npz(folder / file)
        projections = {
            name: ProjectionResult(
                name=name,
                module=entry["module"],
                shape=(entry["shape"][0], entry["shape"][1]),
                layers=entry["layers"],
                metrics=PairMetrics(
                    **{key: arrays[member(name, key)] for key in PairMetrics._fields}
                ),
            )
            for name, entry in summary["projections"].items()
        }
        return cls(
            pair=summary["pair"],
            base=summary["base"],
            post=summary["post"],
            family=summary["family"],
            coverage=summary["coverage"],
            projections=projections,
            options=summary["options"],
        )

    def __repr__(self) -> str:
        head = f"Comparison {self.pair}: {self.base} -> {self.post} ({self.family})"
        names = ("projection", "in", "out", "layers", "alpha", "std", "NF", "unrelated", "ratio")
        rows = [names] + [
            (
                result.name,
                *(str(size) for size in result.shape),
                str(result.layers),
                f"{result.alpha_mean:.4f}",
                f"{result.alpha_std:.4f}",
                f"{result.nf_mean:.4g}",
                f"{result.nf_unrelated:.4g}",
                f"{result.nf_mean / result.nf_unrelated:.3f}",
            )
            for result in self.projections.values()
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(names))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
            for row in rows
        ]
        return "\n".join([head, *lines])


def member(projection: str, key: str) -> str:
    """Name of an array in the npz files: ``q_proj/nf``.

    Tensors of unknown architectures may be called anything; what could lead an unpacker out of its
    directory is percent-encoded.
    """
    safe = urllib.parse.quote(projection, safe="[]{}()+,:@ ")
    if not safe.strip("."):
        safe = "%2E" * len(safe) or "%"
    return f"{safe}/{key}"


def _over(reduce: Any, values: Any) -> float:
    """`reduce` over the values that are not NaN; NaN if there are none."""
    array = np.asarray(values, dtype=np.float64)
    kept = array[~np.isnan(array)]
    return float(reduce(kept)) if kept.size else float("nan")


def _ratio(value: Any, by: Any) -> np.ndarray:
    """value / by, NaN where `by` is 0."""
    value, by = np.asarray(value, np.float64), np.asarray(by, np.float64)
    value, by = np.broadcast_arrays(value, by)
    return np.divide(value, by, out=np.full(by.shape, np.nan), where=by != 0)
