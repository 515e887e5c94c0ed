"""Factorisations W = U diag(s) V^T behind one small interface, each with an error estimate.

Axis legend: `I` in, `O` out, `R` = min(I, O).

A `Factorisation` names a route and its working dtype. Calling it upcasts a matrix from its storage
dtype, hands the route the tall orientation (LAPACK's gesdd takes up to four times as long on the
wide one) and swaps U and V back. A route is a function of one tall matrix that returns `SVDState`:
the factors and an estimate of how wrong they may be, so that what is derived from them can carry
its own.
"""

from __future__ import annotations

import contextlib
import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.errors import InputError
from svdjax.spectral.products import eigh, gram, inner_gram, matmul, outer
from svdjax.spectral.stored import Stored, to_floats


class Factors(NamedTuple):
    """A reduced singular value decomposition, s descending.

    Attributes:
      u: [I, R], orthonormal columns, spanning the input subspace.
      s: [R], not negative.
      v: [O, R], orthonormal columns, spanning the output subspace.
    """

    u: jax.Array
    s: jax.Array
    v: jax.Array


class SVDState(NamedTuple):
    """Factors and how far they may be from the exact ones of the same matrix.

    Attributes:
      factors: the factors.
      sigma_error: absolute error of any singular value, scalar.
      turn_error: Frobenius error of the polar factor U V^T within its subspaces, scalar.
      tilt_error: how far the subspaces lean towards any one direction outside, scalar.
    """

    factors: Factors
    sigma_error: jax.Array
    polar_error: jax.Array
    subspace_error: jax.Array


@dataclass(frozen=True)
class Factorisation:
    """A route from a matrix to its factors.

    Attributes:
      name: what configs call it.
      dtype: name of the working dtype, ``float32`` or ``float64``.
      route: function of one tall matrix [I, O], I >= O, in the working dtype.
      halves: whether a comparison of long matrices may do without their factors where that is
        exact enough (see `svdjax.spectral.compare`); the route then takes, as second argument,
        the singular vectors of the short side as rows, V^T, if they are known.
    """

    name: str
    dtype: str
    route: Callable[..., SVDState]
    halves: bool = False

    @property
    def eps(self) -> float:
        """Distance from 1 to the next number of the working dtype."""
        return float(np.finfo(self.dtype).eps)

    def check(self) -> None:
        """Make sure that the working dtype is there.

        Raises:
          RuntimeError: the route works in float64 and 64-bit types are off, where jax would
            silently compute in float32. Enter `working_precision` first.
        """
        if self.dtype == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore
            raise RuntimeError(
                f"factorisation {self.name!r} works in float64 but 64-bit types are off: "
                "call it within svdjax.spectral.working_precision(...)"
            )

    def upcast(self, w: Stored) -> jax.Array:
        """Bring a stored matrix to the working dtype, on the device; raises what `check` does."""
        self.check()
        return jax.lax.convert_element_type(to_floats(w), self.dtype)

    def __call__(self, w: Stored, rows: jax.Array | None = None) -> SVDState:
        """Factor one matrix [I, O] of any orientation and storage dtype.

        Args:
          w: the matrix.
          rows: the vectors of its short side as rows [R, R], where the route has `halves` and they
            are known.
        """
        w = self.upcast(w)
        more = () if rows is None else (rows,)
        if w.shape[0] >= w.shape[1]:
            return self.route(w, *more)
        (u, s, v), *errors = self.route(w.T, *more)
        return SVDState(Factors(v, s, u), *errors)


def singular_values(w: jax.Array) -> jax.Array:
    """Singular values of one matrix [I, O] in its own dtype, descending, without vectors, [R]."""
    tall = w if w.shape[0] >= w.shape[1] else w.T
    return jnp.linalg.svd(tall, full_matrices=False, compute_uv=False)


def numerical_rank(s: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Count the singular values above max(I, O) eps s_1 (eps of their dtype), int32 scalar."""
    cut = max(shape) * float(jnp.finfo(s.dtype).eps)
    return jnp.sum(s > cut * s[0], dtype=jnp.int32)


def polar_errors(
    s: jax.Array, shape: tuple[int, int], backward: float
) -> tuple[jax.Array, jax.Array]:
    """Estimate the errors of U V^T when the factors are those of a matrix nearby.

    With W + E factored instead of W, E of entries e, U^T dP V has the entries
    ``(F - F^T)_ij / (s_i + s_j)`` with F = U^T E V, and column j leans by e / s_j towards each
    direction outside the subspaces. Only the numerical rank k is looked at.

    Args:
      s: singular values [R], descending.
      shape: (I, O).
      backward: backward error of the route, ||E||_F / ||W||_F.

    Returns:
      turn, ``e sqrt(sum_{i != j} 2/(s_i + s_j)^2)`` and the loss of orthogonality, ``backward`` for
      each of the k pairs; and tilt, ``e sqrt(sum_j 1/s_j^2)``.
    """
    live = jnp.arange(s.shape[0], dtype=jnp.int32) < numerical_rank(s, shape)
    unit = jnp.where(live, s / jnp.where(s[0] > 0, s[0], 1), 1)
    both = live[:, None] & live[None, :] & ~jnp.eye(s.shape[0], dtype=bool)
    pairs = jnp.sum(jnp.where(both, 2 / (unit[:, None] + unit[None, :]) ** 2, 0))
    k = jnp.sum(live, dtype=s.dtype)
    entry = jnp.sqrt(jnp.sum(jnp.where(live, unit, 0) ** 2) / math.prod(shape))
    tilt = jnp.sqrt(jnp.sum(jnp.where(live, 1 / unit, 0) ** 2))
    return backward * (entry * jnp.sqrt(pairs) + jnp.sqrt(k)), backward * entry * tilt


def backward_error(r: int, eps: float) -> float:
    """Relative backward error of a dense SVD, (3 + sqrt(r)) eps.

    Measured for LAPACK in both precisions (r from 8 to 1000, kappa from 1 to 1e8): the polar error
    that `polar_errors` predict from it is at or above the true one, mostly two to ten times.
    """
    return (3 + math.sqrt(r)) * eps


@jax.jit  # of base and post, within one program: traced once
def _svd(w: jax.Array) -> SVDState:
    u, s, vt = jnp.linalg.svd(w, full_matrices=False)
    shape = (w.shape[0], w.shape[1])
    backward = backward_error(s.shape[0], float(jnp.finfo(w.dtype).eps))
    # Deflation in the bidiagonal solver moves single values by more than the average entry.
    turn, tilt = polar_errors(s, shape, backward)
    return SVDState(Factors(u, s, vt.T), 2 * backward * s[0], turn, tilt)


POLAR_TOLERANCE = 1e-7
"""Largest estimated Frobenius error of U V^T, rounding aside, with which the Gram route is content.
"""


class _Images(NamedTuple):
    """W V for orthonormal V, its columns all but orthogonal, the longest first.

    Columns lie as rows here: on CPU they are picked and divided at a fraction of the cost.

    Attributes:
      wv: (W V)^T [R, I].
      v: V^T [R, R].
      s: lengths of the columns [R], descending.
    """

    wv: jax.Array
    v: jax.Array
    s: jax.Array


class _Seen(NamedTuple):
    """Images, and how far from orthogonal they are.

    Attributes:
      images: the images.
      e: (W V / s)^T (W V / s) - I [R, R].
      loss: ||e||_F.
    """

    images: _Images
    e: jax.Array
    loss: jax.Array


def _images(wv: jax.Array, v: jax.Array) -> _Images:
    s = jnp.sqrt(jnp.sum(wv**2, axis=1))
    order = jnp.argsort(s, descending=True)
    return _Images(wv[order], v[order], s[order])


def _seen(images: _Images) -> _Seen:
    e = gram(_unit(images.wv, images.s))
    e = e - jnp.eye(len(images.s), dtype=e.dtype)
    return _Seen(images, e, jnp.sqrt(jnp.sum(e**2)))


def _unit(rows: jax.Array, lengths: jax.Array) -> jax.Array:
    """Rows at unit length; those of length 0 stay 0."""
    return rows / jnp.where(lengths > 0, lengths, 1)[:, None]


def _expected_loss(s: jax.Array) -> jax.Array:
    """The loss that a Gram matrix of these singular values brings about.

    Measured: 0.015 to 0.04 of what entries of ``eps s_1^2`` would come to for geometric spectra of
    condition numbers from 1e4 to 1e6 and orders from 200 to 1024; of others from far less to 0.2.
    So it is a guess; what is decided in the end goes by the loss that is seen.
    """
    eps = float(jnp.finfo(s.dtype).eps)
    return 0.02 * eps * jnp.sum((s[0] / jnp.where(s > 0, s, jnp.inf)) ** 2)


def _again(first: _Images) -> _Images:
    """Turns the lower half of V once more, by the Gram matrix of its images alone.

    What W^T W loses is measured by its largest singular value; so the small ones are told apart
    by a matrix in which they are large. The loss falls from eps (s_1 / s_r)^2 to about
    eps s_1^2 / (s_cut s_r).
    """
    cut = len(first.s) // 2
    low = first.wv[cut:] / jnp.where(first.s[cut] > 0, first.s[cut], 1)
    turn = eigh(gram(low))[1].T
    wv, v = (jnp.concatenate([x[:cut], matmul(turn, x[cut:])]) for x in (first.wv, first.v))
    return _images(wv, v)


def _spill(s: jax.Array, e: jax.Array) -> jax.Array:
    """How far the lengths s [R] are from the singular values of W, at most, from E [R, R].

    The squares of those are the eigenvalues of S (I + E) S, whose entries beside the diagonal move
    them in second order, ``sum_i (s_i E_ij s_j)^2 / |s_i^2 - s_j^2|``; entries larger than the gap
    by themselves.
    """
    beside = jnp.abs(s[:, None] * e * s[None, :])
    gaps = jnp.abs((s[:, None] - s[None, :]) * (s[:, None] + s[None, :]))
    moved = jnp.where(beside < gaps, beside**2 / jnp.where(gaps > 0, gaps, 1), beside)
    return jnp.max(jnp.sum(moved, axis=0) / jnp.where(s > 0, 2 * s, 1))


@jax.jit  # likewise
def _gram(w: jax.Array, rows: jax.Array | None = None) -> SVDState:
    """W^T W = V diag(s)^2 V^T, then s_j = ||W v_j||, u_j = W v_j / s_j, and U made orthonormal.

    Quicker than an SVD on a CPU. The u_j lose orthogonality like eps (s_1 / s_j)^2. With
    E = U^T U - I the polar factor of W = U diag(s) V^T is U (I - F) V^T but for terms in E^2,
    ``F_ij = s_i E_ij / (s_i + s_j)`` (*derived*: the Sylvester equation of (S (I + E) S)^(1/2)),
    whatever the gaps between the s_j. Where ||E||^2 is expected, or seen, to exceed
    `POLAR_TOLERANCE`, which takes a condition number of 1e5 to 1e6, the small singular values are
    worked out again among themselves (`_again`); where E says that this is not enough either,
    beyond 1e8 or so, the matrix is factorised by `_svd` instead.
    """
    # A power of two, so that nothing is rounded.
    top = jnp.ldexp(jnp.ones((), w.dtype), jnp.frexp(jnp.max(jnp.abs(w)))[1] - 1)
    top = jnp.where(top > 0, top, 1)  # of numbers so small that they count as zeros
    unit = w / top
    rows = eigh(inner_gram(unit))[1].T if rows is None else rows
    images = _images(outer(rows, unit), rows)
    # Foretold, since to see it costs a product.
    likely = _expected_loss(images.s) ** 2 <= POLAR_TOLERANCE
    seen = _seen(jax.lax.cond(likely, lambda same: same, _again, images))
    seen = jax.lax.cond(
        (seen.loss**2 <= POLAR_TOLERANCE) | ~likely,
        lambda seen: seen,
        lambda seen: _seen(_again(seen.images)),
        seen,
    )

    def fast(_: jax.Array) -> SVDState:
        images, e = seen.images, seen.e
        s, u = images.s, _unit(images.wv, images.s)
        f = e * s[:, None] / (s[:, None] + s[None, :])
        backward = backward_error(len(s), float(jnp.finfo(w.dtype).eps))
        turn, tilt = polar_errors(s, (w.shape[0], w.shape[1]), backward)
        # As small as f is, float32 loses less of this product than E^2 is.
        single = matmul(f.T.astype(jnp.float32), u.astype(jnp.float32)).astype(u.dtype)
        factors = Factors(u - single, s, images.v)
        sigma = 2 * backward * s[0] + _spill(s, e)
        lost = seen.loss * (seen.loss + float(jnp.finfo(jnp.float32).eps))
        return SVDState(factors, sigma, turn + lost, tilt)

    def slow(unit: jax.Array) -> SVDState:
        found = _svd(unit)
        u, s, v = found.factors
        return found._replace(factors=Factors(u.T, s, v.T))

    # Of unit, the factors transposed.
    found: SVDState = jax.lax.cond(seen.loss**2 <= POLAR_TOLERANCE, fast, slow, unit)
    u, s, v = found.factors
    return found._replace(factors=Factors(u.T, top * s, v.T), sigma_error=top * found.sigma_error)


FACTORISATIONS: Mapping[str, Factorisation] = MappingProxyType(
    {
        "svd_f64": Factorisation("svd_f64", "float64", _svd),
        "svd_f32": Factorisation("svd_f32", "float32", _svd),
        "gram_f64": Factorisation("gram_f64", "float64", _gram, halves=True),
    }
)


AUTO = "gram_f64"
"""What ``auto`` takes, for every shape and on every device. Whether a long matrix needs its
factors, and whether any matrix needs an SVD, the kernel decides matrix by matrix from what it has
measured of the conditioning, and says so in the results."""


def get_factorisation(name: str | Factorisation) -> Factorisation:
    """Look a factorisation up by name, or ``auto``; one that is given as such is returned.

    Raises:
      InputError: there is none of that name.
    """
    if isinstance(name, Factorisation):
        return name
    if name == "auto":
        return FACTORISATIONS[AUTO]
    if name not in FACTORISATIONS:
        near = difflib.get_close_matches(str(name), FACTORISATIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"factorisation {name!r}: expected one of auto, {', '.join(FACTORISATIONS)}{hint}"
        )
    return FACTORISATIONS[name]


def working_precision(
    factorisation: str | Factorisation,
) -> contextlib.AbstractContextManager[object]:
    """Context in which a route computes in its own dtype: 64-bit types on for float64 routes.

    The setting belongs to the thread and ends with the block.
    """
    if get_factorisation(factorisation).dtype == "float64":
        return jax.enable_x64(True)
    return contextlib.nullcontext()
