"""The controls of a construction on stacks of matrices: moves of W_post by a given distance.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).

Every control is W_post + t D. D is a matrix of normal numbers for ``noise``, W_base - W_post for
``interpolated`` and ``reverted``, where t is at most 1; t is such that the *stored* matrix lies at
the distance of the construction's. Rounding to 16 bits adds to a distance: t is sought with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.spectral.compare import frobenius
from svdjax.spectral.constructions import Built, surviving_share
from svdjax.spectral.factorisation import get_factorisation
from svdjax.spectral.lift import lift

Array = jax.Array | np.ndarray
_STEPS = 10
_ROUTE = "svd_f64"  # for its working dtype; nothing is factorised


def control_stack(
    w_post: Array,
    w_base: Array,
    distance: Array | None,
    seeds: Sequence[Sequence[int]] | np.ndarray,
    *,
    name: str,
    dtype: np.dtype | str = "float32",
    mesh: jax.sharding.Mesh | None = None,
) -> Built:
    """Moves matrices as far as a construction did, without being one.

    Args:
        w_post: W_post [L, I, O] as stored.
        w_base: W_base [L, I, O].
        distance: ||W' - W_post||_F of each layer's construction, [L]; not looked at, and may be
            None, for ``reverted``.
        seeds: Of each layer, unsigned 32-bit integers, [L, any]. The direction of ``noise`` depends
            on them and on the shape of the matrix alone.
        name: ``noise``, ``interpolated`` or ``reverted``.
        dtype: Storage dtype of the new matrices.
        mesh: As in `svdjax.spectral.analyse_stack`.

    Returns:
        `Built`, every field with a leading `L`; nothing is factorised, so the singular values are
        NaN. `change` is `distance`, up to what the storage dtype can carry, and less for
        ``interpolated`` where W_base is nearer.

    Raises:
        RuntimeError: 64-bit types are off; enter `svdjax.spectral.working_precision` first.
        ValueError: No control of that name.
    """
    if name not in ("noise", "interpolated", "reverted"):
        raise ValueError(f"no control {name!r}")
    layers = w_post.shape[0]
    if name == "reverted" or distance is None:
        distance = np.full(layers, np.inf)
    random = np.full(layers, name == "noise")
    seeds = np.asarray(seeds, np.uint32)
    stacks = (w_post, w_base, distance, random, seeds)
    return _control(stacks, dtype=np.dtype(dtype).name, mesh=mesh)


@lift
def _control(parts, *, dtype: str) -> Built:
    """One matrix [I, O]; one program for all controls: which it is are values."""
    w_post, w_base, distance, random, seeds = parts
    upcast = get_factorisation(_ROUTE).upcast
    post, base, distance = upcast(w_post), upcast(w_base), upcast(distance)

    def normal() -> jax.Array:
        key = jax.random.key(0)
        for seed in seeds:
            key = jax.random.fold_in(key, seed)
        return jax.random.normal(key, post.shape, post.dtype)

    direction = jax.lax.cond(random, normal, lambda: base - post)
    length = frobenius(direction)
    limit = jnp.where(random, jnp.asarray(jnp.inf, post.dtype), jnp.ones((), post.dtype))

    def stored(t: jax.Array) -> jax.Array:
        # Base itself at the end, not post + (base - post).
        new = jnp.where(~random & (t >= 1), base, post + t * direction)
        return new.astype("float32").astype(dtype) if dtype != post.dtype else new

    def moved(t: jax.Array) -> jax.Array:
        return frobenius(stored(t).astype(post.dtype) - post)

    start = jnp.minimum(distance / jnp.where(length > 0, length, 1), limit)
    new = stored(_matched(moved, distance, length, jnp.where(length > 0, start, 0), limit))
    rounded = new.astype(post.dtype)
    nothing = jnp.full((), jnp.nan, post.dtype)
    values = jnp.full(min(post.shape), jnp.nan, post.dtype)
    return Built(
        w=new,
        sigma=values,
        sigma_post=values,
        change=frobenius(rounded - post),
        norm_post=frobenius(post),
        norm=frobenius(rounded),
        arbitrary=nothing,
        deficient=jnp.zeros((), bool),
        surviving=surviving_share(rounded, post, base),
    )


def _matched(
    moved: Callable[[jax.Array], jax.Array],
    distance: jax.Array,
    length: jax.Array,
    start: jax.Array,
    limit: jax.Array,
) -> jax.Array:
    """The t at which `moved(t)`, which grows with t, is nearest to `distance`.

    Steps of moved^2 = t^2 length^2 + rounding, kept between the bounds that are known.
    """

    def step(_, state):
        t, low, high, best, error = state
        reached = moved(t)
        off = jnp.abs(reached - distance)
        best, error = jnp.where(off < error, t, best), jnp.minimum(off, error)
        low, high = jnp.where(reached < distance, t, low), jnp.where(reached < distance, high, t)
        safe = jnp.where(length > 0, length, 1)
        guess = jnp.sqrt(jnp.maximum(t**2 + (distance**2 - reached**2) / safe**2, 0))
        middle = jnp.where(jnp.isfinite(high), (low + high) / 2, 2 * t)
        return jnp.where((guess > low) & (guess < high), guess, middle), low, high, best, error

    infinite = jnp.full_like(start, jnp.inf)
    state = (start, jnp.zeros_like(start), limit, start, infinite)
    return jax.lax.fori_loop(0, _STEPS, step, state)[3]
