"""Sampled null models: what random changes of the same size do to NF and to singular values.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O), `D` draws.

Two questions, two sorts of null. Random signs in base's frame (``signs``) ask whether both sides
turned together: where the change lies is kept. Haar-random directions (``spectrum``, ``gaussian``)
ask where the change lies (its concentration).

Nothing depends on the singular vectors of the base, since the change is given in their frame, or
its own are Haar-random: W is taken as [diag(sigma); 0], tall. Of the rows of a Gaussian matrix
beyond the first R only their triangular factor matters, R x R, which is had without a factorisation
(Bartlett: chi on the diagonal, normal above). So what is factorised is 2R x R at most, however long
the matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral.factorisation import get_factorisation
from svdjax.spectral.factors import numerical_rank
from svdjax.spectral.lift import lift
from svdjax.spectral.matmul import outer
from svdjax.spectral.metrics import scaling
from svdjax.spectral.null_signs import FACTORISATION, FramedChange, with_random_signs
from svdjax.spectral.statistics import top_count

KINDS = ("spectrum", "gaussian", "signs")
"""Names of the nulls; see `draw_nulls`."""
Array = jax.Array | np.ndarray


class NullDraws(NamedTuple):
    """What one kind of null gave; with a leading `L` after mapping.

    Attributes:
        nf: NF of every draw, [D].
        alpha: Mean scaling of its top 90 % of singular values (eq. 4), [D].
        spread: Population standard deviation of the same, [D].
        svsm_mean: Mean over the draws of the scaling of each singular value, [R].
        svsm_std: Standard deviation over the draws, [R].
    """

    nf: jax.Array | np.ndarray
    alpha: jax.Array | np.ndarray
    spread: jax.Array | np.ndarray
    svsm_mean: jax.Array | np.ndarray
    svsm_std: jax.Array | np.ndarray


def draw_nulls(
    sigma_base: Array,
    alpha: Array,
    change: FramedChange,
    seeds: Array,
    *,
    shape: tuple[int, int],
    draws: int,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, NullDraws]:
    """Draws alpha W_base + Delta for three kinds of random Delta and measures each against W_base.

    ``signs``: the real Delta with random signs of its rows and columns in base's singular frame,
    see `svdjax.spectral.null_signs.with_random_signs`. ``spectrum``: Delta has the singular values
    of the real one, and Haar-random singular vectors. ``gaussian``: its entries are normal, its
    Frobenius norm is that of the real one. The last two are made of one normal matrix a draw. What
    is drawn depends on a layer's seeds and the number of the draw, on nothing else.

    Args:
        sigma_base: Singular values of W_base, descending, [L, R].
        alpha: Scale of each layer, [L], of either sign.
        change: The real Delta, as `svdjax.spectral.null_signs.framed_change` returned it, a leading
            `L` in every field.
        seeds: Of each layer, unsigned 32-bit integers, [L, any].
        shape: (in, out).
        draws: How many of each kind, `D`.
        mesh: As in `svdjax.spectral.analyse_stack`.

    Returns:
        `NullDraws` by kind.

    Raises:
        RuntimeError: 64-bit types are off.
    """
    stacks = tuple(np.asarray(x, np.float64) for x in (sigma_base, alpha))
    stacks = (*stacks, change, np.asarray(seeds, np.uint32))
    return _draw(stacks, size=(max(shape), min(shape)), draws=draws, mesh=mesh)


@lift
def _draw(parts, *, size, draws):
    # Refuses to compute in float32 without saying so.
    get_factorisation(FACTORISATION).check()
    sigma, alpha, change, seeds = parts
    key = jax.random.key(0)
    for seed in seeds:
        key = jax.random.fold_in(key, seed)

    def draw(number):
        # One call for all of a draw, and one matrix for two kinds: compiling takes longest.
        own = jax.random.fold_in(key, number)
        normal = jax.random.normal(own, (sum(size), size[1]), jnp.float64)
        first = folded(normal[: size[0]])
        norm = jnp.sqrt(jnp.sum(change.values**2) / jnp.sum(first**2))
        turned = with_values(first, change.values, normal[size[0] :])
        signs = with_random_signs(jax.random.fold_in(own, 1), change, sigma)
        # Not vmap, as in `map_layers`; all kinds are one trace.
        deltas = jnp.stack([turned, norm * first, signs])
        return jax.lax.map(lambda delta: _measure(sigma, alpha, delta, size[0]), deltas)

    nf, ratios = jax.lax.map(draw, jnp.arange(draws, dtype=jnp.uint32))
    top = ratios[..., : top_count(size[1])]
    live = ~jnp.isnan(top)
    count = jnp.maximum(jnp.sum(live, axis=-1, dtype=top.dtype), 1)
    mean = jnp.sum(jnp.where(live, top, 0), axis=-1) / count
    off = jnp.where(live, top - mean[..., None], 0)
    spread_of = jnp.sqrt(jnp.sum(off**2, axis=-1) / count)
    return {
        kind: NullDraws(
            nf=nf[:, i],
            alpha=mean[:, i],
            spread=spread_of[:, i],
            svsm_mean=jnp.mean(ratios[:, i], axis=0),
            svsm_std=jnp.std(ratios[:, i], axis=0),
        )
        for i, kind in enumerate(KINDS)
    }


def folded(normal: jax.Array) -> jax.Array:
    """A standard normal [long, short] with its rows from `short` on reduced to their R factor.

    In law: the R factor of a normal matrix of n rows has independent entries, normal above the
    diagonal, and on it, in row i, the root of a chi square of n - i degrees of freedom, here made
    of the entries on and below the diagonal.

    Returns:
        [min(long, 2 short), short]; where the rest has no more than `short` rows it stays as it is.
    """
    short = normal.shape[1]
    rest = normal[short:]
    if rest.shape[0] <= short:
        return normal
    chi = jnp.sqrt(jnp.sum(jnp.tril(rest) ** 2, axis=0))
    return jnp.concatenate([normal[:short], jnp.triu(rest[:short], 1) + jnp.diag(chi)])


def with_values(left: jax.Array, values: jax.Array, right: jax.Array) -> jax.Array:
    """U diag(values) V^T with Haar-random U and V, the orthonormal factors of normal matrices.

    That of a folded one is the orthonormal factor of the whole, its rows reduced in the same way.
    """
    return outer(_haar(left) * values[None, :], _haar(right))


def _haar(g: jax.Array) -> jax.Array:
    q, r = jnp.linalg.qr(g)
    return q * jnp.where(jnp.diagonal(r) < 0, -1.0, 1.0)[None, :]


def _measure(sigma, alpha, delta, long):
    """NF and SVSM of [diag(alpha sigma); 0] + Delta against [diag(sigma); 0]."""
    r = sigma.shape[0]
    w = delta.at[:r].add(jnp.diag(alpha * sigma))
    u, s, v = get_factorisation(FACTORISATION)(w).factors
    polar = outer(u[:r], v)
    nf = jnp.sqrt(jnp.sum((polar - jnp.eye(r, dtype=w.dtype)) ** 2)) / r
    return nf, scaling(sigma, s, numerical_rank(sigma, (long, r)))
