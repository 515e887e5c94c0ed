"""Agreement of two matrices beyond chance: tr(I_orth), its null, and its pooling.

Axes: `L` layers (any stack), `I` in, `O` out, `R` = min(I, O).

``tr(I_orth) = tr(Q1^T Q2) = <P_base, P_post>``, the inner product of the polar factors P = U V^T
(docs/mathematics.md, 3), which is 1 per singular direction for equal matrices and 0 on average for
unrelated ones, whatever the signs and the mixing of singular vectors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral import get_factorisation, nf_unrelated, working_precision
from svdjax.spectral.lift import lift
from svdjax.spectral.matmul import outer
from svdjax.spectral.storage import carried_rank

FACTORISATION = "gram_f64"

LEADING = 0.1
"""Share of the singular directions, the largest first, that are leading ones."""


def leading_count(shape: tuple[int, ...]) -> int:
    """Number of leading directions among r = min(in, out) singular ones, at least one."""
    return math.ceil(LEADING * min(shape))


class Polar(NamedTuple):
    """Polar factors of a stack of matrices, on the numerical rank.

    Attributes:
        p: Sum over the singular values above rounding of u_j v_j^T, [L, I, O], float64.
        sigma: Singular values, [L, R], descending.
        rank: Numerical ranks, or what storage carries, [L], int32.
        u: Leading left singular vectors, [L, I, k], k of `leading_count`.
        v: Leading right singular vectors, [L, O, k].
    """

    p: np.ndarray
    sigma: np.ndarray
    rank: np.ndarray
    u: np.ndarray
    v: np.ndarray


def polar_stack(
    w: np.ndarray, mesh: jax.sharding.Mesh | None = None, eps: Sequence[float] | None = None
) -> Polar:
    """Polar factors of matrices [L, I, O], each on one device of the mesh, in float64.

    Args:
        w: The matrices.
        mesh: Devices with an axis ``layers``; None for one.
        eps: Distance from 1 to the next number of the dtype that each matrix was stored in, [L]:
            directions that its rounding hides are left out (`svdjax.spectral.storage`'s
            `carried_rank`). None where they are exact.
    """
    factorisation = get_factorisation(FACTORISATION)
    with working_precision(factorisation):
        roundings = np.zeros(len(w)) if eps is None else np.asarray(eps, np.float64)
        stacks = np.asarray(w, np.float64), roundings
        return Polar(
            *(np.asarray(each) for each in _polar(stacks, factorisation=factorisation, mesh=mesh))
        )


@lift
def _polar(stored: tuple[jax.Array, jax.Array], *, factorisation) -> Any:
    w, eps = stored
    factors = factorisation(w).factors
    rank = carried_rank(factors.s, eps, (w.shape[0], w.shape[1]))
    live = jnp.arange(factors.s.shape[0], dtype=jnp.int32) < rank
    u = jnp.where(live[None, :], factors.u, 0)
    p = outer(u, factors.v)
    k = leading_count(w.shape)
    return p, factors.s, rank, u[:, :k], factors.v[:, :k]


class Agreement(NamedTuple):
    """Agreement of two aligned matrices.

    Attributes:
        trace: tr(I_orth) = <P_r, P_s>.
        size: sqrt(k_r k_s) of the numerical ranks: the trace of equal matrices, r at full rank.
        variance: Variance of the trace when one polar factor is Haar-random: k_r k_s / (in out),
            r/R at full rank.
        nf: ||I_orth - I||_F / r; NaN where a matrix is rank-deficient.
        shape: (in, out).
        leading: `along_leading` of the two.
        outlier: `outlier` of the reference.
    """

    trace: float
    size: float
    variance: float
    nf: float
    shape: tuple[int, int]
    leading: float = math.nan
    outlier: float = math.nan

    @property
    def nf_unrelated(self) -> float:
        """Level of NF between unrelated matrices of this shape."""
        return nf_unrelated(*self.shape)

    @property
    def effect(self) -> float:
        """tr(I_orth) / r: 1 same, 0 unrelated on average."""
        return self.trace / self.size if self.size else math.nan

    @property
    def z(self) -> float:
        """tr(I_orth) / sqrt(r/R), N(0, 1) for unrelated matrices."""
        return self.trace / math.sqrt(self.variance) if self.variance else math.nan


def agreement(p: np.ndarray, q: np.ndarray, ranks: tuple[int, int]) -> Agreement:
    """Agreement of two polar factors [I, O].

    ||I_orth - I||_F^2 = ||P_q^T P_p||_F^2 - 2 tr + r for tall, P_p P_q^T for wide matrices.
    """
    rows, columns = p.shape
    product = q.T @ p if rows >= columns else p @ q.T
    trace, r = float(np.trace(product)), min(rows, columns)
    nf = math.nan
    if min(ranks) == r:
        product[np.diag_indices(r)] -= 1
        nf = float(np.linalg.norm(product)) / r
    both = ranks[0] * ranks[1]
    return Agreement(trace, math.sqrt(both), both / (rows * columns), nf, (rows, columns))


def along_leading(q: np.ndarray, u: np.ndarray, v: np.ndarray) -> float:
    """Agreement of the leading singular directions of two matrices, <U_r V_r^T, U_s V_s^T> / k.

    1 where they are the same, about 0 where they are unrelated, whatever the signs of singular
    vectors.

    Args:
        q: ``U_s V_s^T`` of the suspect's k leading directions, [I, O].
        u: The reference's leading left singular vectors, [I, k].
        v: Its leading right singular vectors, [O, k].
    """
    return float(np.sum((q.T @ u) * v)) / u.shape[1]


def outlier(sigma: np.ndarray, shape: tuple[int, int]) -> float:
    """σ_1 over the largest singular value of a random matrix of this size, rms(W) (√I + √O).

    1 for independent entries of one variance, up to a share that vanishes with the size
    (Marchenko and Pastur's edge); NaN for a matrix of zeros.
    """
    rows, columns = shape
    edge = math.sqrt(float(np.sum(sigma**2)) / (rows * columns)) * (
        math.sqrt(rows) + math.sqrt(columns)
    )
    return float(sigma[0]) / edge if edge else math.nan


class Pooled(NamedTuple):
    """Many agreements as one.

    Attributes:
        effect: Sum of tr over sum of r.
        z: Sum of tr over its standard deviation, or over a bound on that (`pool`).
        count: Number of matrices.
    """

    effect: float
    z: float
    count: int

    @property
    def log10_p(self) -> float:
        """Decimal logarithm of the bound on the p-value; does not underflow."""
        return log10_p(self.z)


def pool(groups: Iterable[Iterable[Agreement]], *, halves: bool = False) -> Pooled:
    """Agreements of matrices as one; NaN where there are none.

    ``z = sum tr / sqrt(sum r/R)`` for independent ones. Two matrices of which each was aligned by
    means of the other are N(0, 1) one by one but not independent: <A, polar(B)> and <B, polar(A)>
    grow together. Deviations are added up there instead of variances, which bounds that of the sum
    whatever the correlation.

    Args:
        groups: Agreements, independent between groups; inside, each matrix was aligned by means
            of the others.
        halves: The groups fall into two halves of which each was aligned by means of the other:
            the variance of the whole is then at most doubled.
    """
    sized = [[a for a in group if a.size] for group in groups]
    every = [a for group in sized for a in group]
    if not every:
        return Pooled(math.nan, math.nan, 0)
    trace = sum(a.trace for a in every)
    variance = sum(sum(math.sqrt(a.variance) for a in group) ** 2 for group in sized)
    return Pooled(
        trace / sum(a.size for a in every),
        trace / math.sqrt(variance * (2 if halves else 1)),
        len(every),
    )


def log10_p(z: float) -> float:
    """log10 of the conservative ``p <= exp(-z^2 / 2)`` for z > 0, of 1 otherwise."""
    if math.isnan(z):
        return math.nan
    return -0.5 * z * z / math.log(10) if z > 0 else 0.0


def p_value(log10: float) -> float:
    """The probability from its decimal logarithm; 0 where it underflows."""
    return math.nan if math.isnan(log10) else 10.0 ** max(min(log10, 0.0), -400.0)
