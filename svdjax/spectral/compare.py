"""Comparison of two matrices: singular values, relative rotations Q1 and Q2, error estimates.

Axis legend: `I` in, `O` out, `R` = min(I, O), `M` = max(I, O).

A method has two phases: `prepare` works out what one matrix tells alone, `compare` takes the states
of both. What several pairs share is prepared once.

`FactorMethod` takes the factors of both. `GramMethod`, for long matrices, takes Gram matrices and
one cross product (`svdjax.spectral.gram_state`): three products with M in them, two of them
symmetric (half the work), and two symmetric eigenproblems take the place of two SVDs. What that
costs is precision, like eps kappa^2 where an SVD has eps kappa. So it depends:

- where M >= 2 R and the estimated error is within `svdjax.spectral.gram_state.TOLERANCE`, which
  holds to a condition number of some 1e4 to 1e5: by `GramMethod`;
- else by `FactorMethod`, with factors out of Gram matrices, the long factor formed and made
  orthonormal (`gram_f64`: as good as an SVD to 1e8); by a program of its own, since it takes
  several times the memory, and most matrices do without (`svdjax.spectral.kernels`);
- and where that says it is not good enough either, by an SVD.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from svdjax.spectral import gram_state, matmul
from svdjax.spectral.factorisation import Factorisation
from svdjax.spectral.factors import Factors, SVDState, numerical_rank
from svdjax.spectral.gram_state import GramState, divisors, gram_errors
from svdjax.spectral.storage import eps_of, rounding_rms, stored_rank
from svdjax.spectral.stored import Stored
from svdjax.spectral.vectors import Ranks, Rotations, Vectors, measure_rotations

FACTORS, GRAM = 0, 1

State = GramState | SVDState
"""What `Method.prepare` gives of one matrix."""

Codes = tuple[jax.Array | None, jax.Array | None]
"""What quantisation rounded of two matrices, [2] each; see `rounding_rms`."""


class MatrixComparison(NamedTuple):
    """Two matrices as their comparison sees them.

    Attributes:
        s_base: Singular values of W_base, descending, [R].
        s_post: Those of W_post.
        rank_base: Numerical rank of W_base, int32.
        rank_post: That of W_post.
        stored_ranks: How many directions of base and post stand out of the rounding of their
            storage, int32 each.
        roundings: Root mean square of the rounding errors of base and post.
        cosine: <W_base, W_post> / (||W_base|| ||W_post||), 0 where either is zero.
        vectors: What is measured of their singular vectors.
        q: Q1 and Q2 of the two, [R, R] each; None where they were not asked for.
        inside: U_base^T W_post V_base / ||W_post||_F, [R, R]; zeros for a zero matrix.
        outside: Share of ||W_post||_F that lies outside the subspaces of base, 0 if square; NaN
            where no long factor was formed and only ||W_post - alpha W_base|| can tell, or q is
            None.
        sigma_error: Estimate of the absolute error of any singular value.
        polar_error: Of the polar factors of both within their subspaces, Frobenius.
        subspace_error: How far their subspaces lean towards any one direction outside.
        route: `GRAM` where the Gram matrices were good enough, else `FACTORS`, int32.
    """

    s_base: jax.Array
    s_post: jax.Array
    rank_base: jax.Array
    rank_post: jax.Array
    stored_ranks: tuple[jax.Array, jax.Array]
    roundings: tuple[jax.Array, jax.Array]
    cosine: jax.Array
    vectors: Vectors
    q: Rotations | None
    inside: jax.Array
    outside: jax.Array
    sigma_error: jax.Array
    polar_error: jax.Array
    subspace_error: jax.Array
    route: jax.Array


class Method(Protocol):
    """A method of comparison; hashable, a static argument of the programs."""

    @property
    def factorisation(self) -> Factorisation:
        """Source of factors, and the working dtype."""
        ...

    @property
    def full_rotations(self) -> bool:
        """Whether Q1 and Q2 are wanted, not just what `Vectors` show of them."""
        ...

    @property
    def batches(self) -> bool:
        """Whether several pairs are compared at once without more work; see `lift`."""
        ...

    def prepare(self, w: Stored, known: State | None = None) -> State:
        """What the method needs of W [I, O] alone, as stored.

        Args:
            w: The matrix.
            known: A state of it, by this method or another, if there is one.
        """
        ...

    def compare(
        self,
        base: Stored,
        post: Stored,
        states: tuple[Any, Any],
        *,
        corner: int,
        codes: Codes = (None, None),
    ) -> MatrixComparison:
        """The comparison of W_base and W_post [I, O].

        Args:
            base: W_base, as stored.
            post: W_post, as stored.
            states: What `prepare` gave of either.
            corner: Size of what `Vectors` show of [R, R] matrices.
            codes: What quantisation rounded of either; see `rounding_rms`.
        """
        ...


def is_long(shape: Sequence[int]) -> bool:
    """Whether [I, O] is so long that a comparison tries to do without factors: M >= 2 R."""
    return max(shape) >= 2 * min(shape)


def select_method(
    factorisation: Factorisation, shape: Sequence[int], *, full_rotations: bool
) -> Method:
    """The method with which matrices [I, O] are compared first."""
    kind = GramMethod if factorisation.supports_gram and is_long(shape) else FactorMethod
    return kind(factorisation, full_rotations)


def prepare_pair(
    method: Method,
    base: Stored,
    post: Stored,
    known: tuple[State | None, State | None] = (None, None),
) -> tuple[State, State]:
    """The states of both matrices, one after the other where they take much memory."""
    of_base = method.prepare(base, known[0])
    if isinstance(of_base, SVDState) and known[1] is None:
        post = _after(of_base.factors.s, post)
    return of_base, method.prepare(post, known[1])


def _after(s: jax.Array, w: Stored) -> Stored:
    """W, to be looked at when singular values s are known.

    XLA would factorise both matrices side by side, at the memory of both, and no sooner; of
    barriers it takes no notice.
    """
    never = s[0] < 0
    return jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), w)


@dataclass(frozen=True)
class GramMethod:
    """Comparison of long matrices of full rank by their Gram matrices; see `Method`.

    Whether that was good enough stands in the result's `route`; where it was not, the numbers are
    nobody's.
    """

    factorisation: Factorisation
    full_rotations: bool
    batches = True

    def prepare(self, w: Stored, known: State | None = None) -> GramState:
        """See `Method.prepare`."""
        if isinstance(known, GramState):
            return known
        return gram_state.gram_state(w, self.factorisation.dtype, inv_sqrt=not self.full_rotations)

    def compare(
        self,
        base: Stored,
        post: Stored,
        states: tuple[GramState, GramState],
        *,
        corner: int,
        codes: Codes = (None, None),
    ) -> MatrixComparison:
        """See `Method.compare`."""
        dtype, shape = self.factorisation.dtype, _shape(base)
        cross = matmul.cross_of(base, post, dtype)
        s_base, s_post = (state.s for state in states)
        scaled_base, scaled_post = (
            state._replace(s=state.s * matmul.scale(w, dtype))
            for state, w in zip(states, (base, post))
        )
        errors = gram_errors(s_base, shape), gram_errors(s_post, shape)
        ranks = numerical_rank(s_base, shape), numerical_rank(s_post, shape)
        roundings, stored = _storage((s_base, s_post), shape, (base.dtype, post.dtype), codes)
        norms = frobenius(scaled_base.s), frobenius(scaled_post.s)
        tall = shape[0] > shape[1]
        q = None
        if self.full_rotations:
            q = gram_state.rotations(scaled_base, scaled_post, cross, tall=tall)
            vectors = measure_rotations(q, ranks, stored, corner)
            inside = post_inside(q, scaled_post.s)
        else:
            vectors = gram_state.measure_vectors(
                scaled_base, scaled_post, cross, stored, tall=tall, corner=corner
            )
            inside = gram_state.post_in_frame(scaled_base, cross, tall=tall) / divisors(norms[1])
        return MatrixComparison(
            s_base=s_base,
            s_post=s_post,
            rank_base=ranks[0],
            rank_post=ranks[1],
            stored_ranks=stored,
            roundings=roundings,
            cosine=jnp.sum(jnp.diagonal(cross)) / divisors(norms[0]) / divisors(norms[1]),
            vectors=vectors,
            q=q,
            inside=inside,
            outside=jnp.full((), jnp.nan, s_base.dtype),
            sigma_error=jnp.maximum(errors[0].sigma, errors[1].sigma),
            polar_error=errors[0].polar + errors[1].polar,
            subspace_error=jnp.zeros((), s_base.dtype),
            route=jnp.where(errors[0].good & errors[1].good, GRAM, FACTORS).astype(jnp.int32),
        )


@dataclass(frozen=True)
class FactorMethod:
    """Comparison by the factors of both matrices, of any shape and rank; see `Method`."""

    factorisation: Factorisation
    full_rotations: bool

    @property
    def batches(self) -> bool:
        """See `Method.batches`."""
        return self.factorisation.batches

    def prepare(self, w: Stored, known: State | None = None) -> SVDState:
        """See `Method.prepare`."""
        if isinstance(known, SVDState):
            return known
        return self.factorisation(w, None if known is None else known.vt)

    def compare(
        self,
        base: Stored,
        post: Stored,
        states: tuple[SVDState, SVDState],
        *,
        corner: int,
        codes: Codes = (None, None),
    ) -> MatrixComparison:
        """See `Method.compare`."""
        shape, (b, p) = _shape(base), (state.factors for state in states)
        # As products of rows: that is how all factorisations come by these columns.
        q = Rotations(matmul.outer(b.u.T, p.u.T), matmul.outer(b.v.T, p.v.T))
        ranks = numerical_rank(b.s, shape), numerical_rank(p.s, shape)
        roundings, stored = _storage((b.s, p.s), shape, (base.dtype, post.dtype), codes)
        unit_base, unit_post = unit_norm(b.s)[0], unit_norm(p.s)[0]
        outside = _outside(b, p, q) if self.full_rotations else jnp.full((), jnp.nan, p.s.dtype)
        return MatrixComparison(
            s_base=b.s,
            s_post=p.s,
            rank_base=ranks[0],
            rank_post=ranks[1],
            stored_ranks=stored,
            roundings=roundings,
            cosine=jnp.sum(q.q1 * q.q2 * unit_base[:, None] * unit_post[None, :]),
            vectors=measure_rotations(q, ranks, stored, corner),
            q=q if self.full_rotations else None,
            inside=post_inside(q, p.s),
            outside=outside,
            sigma_error=jnp.maximum(*(state.sigma_error for state in states)),
            polar_error=states[0].polar_error + states[1].polar_error,
            subspace_error=states[0].subspace_error + states[1].subspace_error,
            route=jnp.asarray(FACTORS, jnp.int32),
        )


def _shape(w: Stored) -> tuple[int, int]:
    return w.shape[0], w.shape[1]


def _storage(
    singular_values: tuple[jax.Array, jax.Array],
    shape: tuple[int, int],
    dtypes: tuple[Any, Any],
    codes: Codes,
) -> tuple[tuple[jax.Array, jax.Array], Ranks]:
    """`MatrixComparison.roundings` and `MatrixComparison.stored_ranks`."""
    (base, base_rank), (post, post_rank) = (
        (
            rms := rounding_rms(frobenius(s), shape, dtype, each),
            stored_rank(s, rms, shape, eps_of(dtype)),
        )
        for s, dtype, each in zip(singular_values, dtypes, codes)
    )
    return (base, post), (base_rank, post_rank)


def post_inside(q: Rotations, s_post: jax.Array) -> jax.Array:
    """``U_base^T W_post V_base / ||W_post||_F = Q1 S_post Q2^T / ||S_post||_F`` [R, R]."""
    return matmul.outer(q.q1 * unit_norm(s_post)[0][None, :], q.q2)


def _outside(base: Factors, post: Factors, q: Rotations) -> jax.Array:
    """Share of ||W_post|| outside the subspaces of base; 0 if square."""
    rows, columns = base.u.shape[0], base.v.shape[0]
    if rows > columns:
        rest = post.u - matmul.matmul(base.u, q.q1)
    elif columns > rows:
        rest = post.v - matmul.matmul(base.v, q.q2)
    else:
        return jnp.zeros((), post.s.dtype)
    return frobenius(rest * unit_norm(post.s)[0][None, :])


def frobenius(x: jax.Array) -> jax.Array:
    """Frobenius norm that neither overflows nor underflows on its way, scalar."""
    top = jnp.max(jnp.abs(x))
    safe = jnp.where(top > 0, top, 1)
    return safe * jnp.sqrt(jnp.sum((x / safe) ** 2))


def unit_norm(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x / ||x||_F and the norm; a zero stays zero."""
    norm = frobenius(x)
    return x / jnp.where(norm > 0, norm, 1), norm
