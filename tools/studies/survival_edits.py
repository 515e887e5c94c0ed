"""Edits of one module of a model and what they do, for `tools.studies.survival`.

Constructions and controls are svdjax's own kernels, with distances and shares as they report them.

Axis legend: `L` layers, `I` in, `O` out, `B` batch, `T` time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.checkpoint.config import ModelConfig
from svdjax.construct.build import StackBuilder
from svdjax.construct.controls import noise_seeds
from svdjax.construct.recipes import get_recipe
from svdjax.construct.selection import site_of
from svdjax.construct.tree import (
    chosen_paths,
    factorisation_for,
    leaf_at,
    projection_of,
    replaced_leaves,
)
from svdjax.model import forward
from svdjax.spectral import predicted_surviving
from svdjax.text.likelihood import kl_divergence, log_probabilities
from tools.studies.survival_law import change_of

RESTORATIONS = {"V": "eq11", "U": "eq16"}
"""The two restorations by the side that they change."""


class Stacks(NamedTuple):
    """The matrices of one module before and after an edit, by path of their leaf.

    Attributes:
        new: The edited matrices [L, I, O] float32.
        change: ||new - post||_F of each, [L].
        share: Surviving share of Δ of each, [L].
    """

    new: dict[str, np.ndarray]
    change: dict[str, np.ndarray]
    share: dict[str, np.ndarray]


class Pair:
    """A base and what came of it, and the edits of the latter's modules.

    Args:
        base: Parameters, float32.
        post: Those of the other one.
        seed: Of the noise.
    """

    def __init__(self, base: Any, post: Any, seed: int):
        self.base, self.post, self._seed = base, post, seed

    def stacks(self, path: str) -> tuple[np.ndarray, np.ndarray]:
        """W_base and W_post of a leaf, [L, I, O] each."""
        return np.asarray(leaf_at(self.base, path)), np.asarray(leaf_at(self.post, path))

    def construct(self, name: str, modules: str, signs: str = "raw") -> Stacks:
        """A construction of a module."""
        recipe = get_recipe(name)
        builder = StackBuilder(factorisation_for("auto", recipe.polar), None)
        options = {"signs": signs, "dtype": np.dtype(np.float32)}

        def build(path: str) -> Any:
            base, post = self.stacks(path)
            return builder.build(recipe, post, base, **options)

        return self._built(modules, build)

    def control(self, kind: str, modules: str, distance: Mapping[str, np.ndarray]) -> Stacks:
        """A control of a module, `distance` from post: ``noise`` or ``interpolated``."""
        builder = StackBuilder("svd_f64", None)

        def build(path: str) -> Any:
            base, post = self.stacks(path)
            return builder.build(
                get_recipe("eq11"),
                post,
                base,
                dtype=np.dtype(np.float32),
                control=kind,
                distance=distance[path],
                seeds=noise_seeds(self._seed, site_of(path), range(len(post))),
            )

        return self._built(modules, build)

    def keep_share(self, share: Mapping[str, np.ndarray]) -> Stacks:
        """Base + share Δ: as much of Δ taken away as `share` leaves, and nothing else done."""
        new, change = {}, {}
        for path, kept in share.items():
            base, post = self.stacks(path)
            delta = change_of(base, post)
            removed = (1 - kept)[:, None, None] * delta
            new[path] = (post - removed).astype(np.float32)
            change[path] = np.linalg.norm(removed, axis=(1, 2))
        return Stacks(new, change, dict(share))

    def revert(self, modules: str) -> Stacks:
        """Base's matrices."""
        paths = chosen_paths(self.post, modules)
        stacks = {path: self.stacks(path) for path in paths}
        change = {
            p: np.linalg.norm(w.astype(float) - b, axis=(1, 2)) for p, (b, w) in stacks.items()
        }
        zeros = {path: np.zeros(len(base)) for path, (base, _) in stacks.items()}
        return Stacks({path: base for path, (base, _) in stacks.items()}, change, zeros)

    def within(self, edit: Stacks, modules: str) -> Stacks:
        """The part of an edit that concerns a module."""
        paths = chosen_paths(self.post, modules)
        return Stacks(*({path: each[path] for path in paths} for each in edit))

    def part(self, edit: Stacks, fraction: float) -> Stacks:
        """Post moved by a fraction of an edit."""
        new = {}
        for path, end in edit.new.items():
            post = self.stacks(path)[1].astype(float)
            new[path] = (post + fraction * (end - post)).astype(np.float32)
        change = {path: fraction * each for path, each in edit.change.items()}
        share = {path: 1 - fraction * (1 - each) for path, each in edit.share.items()}
        return Stacks(new, change, share)

    def edited(self, edit: Stacks) -> Any:
        """The parameters of post with an edit."""
        return replaced_leaves(self.post, edit.new)

    def size(self, modules: str) -> float:
        """||Δ||_F / ||W_post||_F over all matrices of a module."""
        paths = chosen_paths(self.post, modules)
        squares = sum(np.sum(change_of(*self.stacks(path)) ** 2) for path in paths)
        return float(np.sqrt(squares) / self._norm(paths))

    def told(self, edit: Stacks) -> dict[str, float]:
        """The size of an edit relative to the module, and its surviving share of Δ beside the law.

        Shares are weighted by the size of Δ in each matrix: share of the module's ||Δ||².
        """
        squares = {p: np.sum(change_of(*self.stacks(p)) ** 2, axis=(1, 2)) for p in edit.new}
        whole = sum(each.sum() for each in squares.values())
        changed = sum(np.sum(np.square(each)) for each in edit.change.values())
        kept = sum(np.sum(squares[path] * edit.share[path]) for path in edit.new)
        return {
            "change": float(np.sqrt(changed) / self._norm(list(edit.new))),
            "share": float(kept / whole),
        }

    def law(self, name: str, modules: str) -> float:
        """The share that a restoration leaves of a small random Δ as large in each matrix."""
        squares, kept = 0.0, 0.0
        for path in chosen_paths(self.post, modules):
            base, post = self.stacks(path)
            square = float(np.sum(change_of(base, post) ** 2))
            squares += square
            kept += square * predicted_surviving(name, base.shape[1:])
        return kept / squares

    def _built(self, modules: str, build: Any) -> Stacks:
        results = {path: jax.device_get(build(path)) for path in chosen_paths(self.post, modules)}
        return Stacks(
            {path: np.asarray(each.w) for path, each in results.items()},
            {path: np.asarray(each.change) for path, each in results.items()},
            {path: np.asarray(each.surviving) for path, each in results.items()},
        )

    def _norm(self, paths: list[str]) -> float:
        return float(
            np.sqrt(sum(np.sum(self.stacks(path)[1].astype(float) ** 2) for path in paths))
        )


def by_projection(shares: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Mean over the layers by projection."""
    return {projection_of(path): float(each.mean()) for path, each in shares.items()}


class Judged(NamedTuple):
    """A model on a text: means over the counted tokens; KL is that from the original."""

    kl: float
    accuracy: float
    loss: float


class Judge:
    """Next-token predictions of edited models beside those of the original.

    Args:
        original: Its parameters.
        config: Configuration of all models.
        tokens: [B, T + 1].
        weights: 1 where the target counts, else 0, [B, T].
    """

    def __init__(self, original: Any, config: ModelConfig, tokens: Any, weights: Any):
        self._config = config
        self._batch = jnp.asarray(tokens), jnp.asarray(weights)
        self._original = _predict(original, config, self._batch[0])

    def __call__(self, params: Any) -> Judged:
        """Judges a model."""
        log = _predict(params, self._config, self._batch[0])
        return Judged(*(float(each) for each in _compare(self._original, log, *self._batch)))


@functools.partial(jax.jit, static_argnames="config")
def _predict(params: Any, config: ModelConfig, tokens: jax.Array) -> jax.Array:
    """Log-probabilities of the next token [B, T, V]; padding on the right is not looked at."""
    return log_probabilities(forward(params, config, tokens[:, :-1]))


@jax.jit
def _compare(p: jax.Array, q: jax.Array, tokens: jax.Array, weights: jax.Array) -> Any:
    targets = tokens[:, 1:]
    loss = -jnp.take_along_axis(q, targets[..., None], axis=-1)[..., 0]
    right = (jnp.argmax(q, axis=-1).astype(targets.dtype) == targets).astype(jnp.float32)
    total = jnp.sum(weights)
    return [jnp.sum(each * weights) / total for each in (kl_divergence(p, q), right, loss)]
