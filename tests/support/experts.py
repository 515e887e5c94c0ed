"""Pairs of mixtures of experts from arrays, without a checkpoint on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from svdjax.checkpoint import PairPlan, Projection
from svdjax.engine.inputs import PairJob
from svdjax.engine.pairs import PairSpec
from svdjax.spectra.arrays import ArrayCheckpoint

Stack = np.ndarray
"""Matrices [L, I, O], of experts [L, E, I, O]."""


def job(
    base: Mapping[str, Stack],
    post: Mapping[str, Stack],
    *,
    layers: Mapping[str, Sequence[int]] | None = None,
    experts: Sequence[int] = (),
) -> PairJob:
    """A pair whose projections are stacks by name.

    Args:
        base: Stacks of base.
        post: Those of post.
        layers: Numbers of the layers by projection; by default 0, 1, ...
        experts: Numbers of the experts; by default 0, 1, ...
    """
    projections, sides = [], ({}, {})
    for name, stack in base.items():
        numbers = tuple((layers or {}).get(name, range(len(stack))))
        count = stack.shape[1] if stack.ndim == 4 else 0
        chosen = tuple(experts) or tuple(range(count))
        tensors = [
            f"model.layers.{layer}.mlp.{f'experts.{expert}.' if count else ''}{name}.weight"
            for layer in numbers
            for expert in (chosen if count else (None,))
        ]
        for side, given in zip(sides, (stack, post[name])):
            side |= dict(zip(tensors, given.reshape(-1, *stack.shape[-2:])))
        projections.append(
            Projection(
                *(name, "mlp", (stack.shape[-2], stack.shape[-1]), tuple(tensors), False, None),
                *(numbers, chosen if count else ()),
            )
        )
    names = [name for one in projections for name in one.tensors]
    coverage = {"analysed": sorted(names), "left_out": {}, "notes": []}
    first, second = (ArrayCheckpoint(s, arrays) for s, arrays in zip(("base", "post"), sides))
    plan = PairPlan(first, second, "mixture", tuple(projections), coverage, ())
    return PairJob(PairSpec("pair", "base", "post"), plan)


def random_pair(
    layers: int, experts: int, shape: tuple[int, int], *, seed: int = 0, change: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
    """Stacks [L, E, I, O] of base and post in float32: 0.98 times base, and noise."""
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((layers, experts, *shape))
    post = 0.98 * base + change * rng.standard_normal(base.shape)
    return base.astype(np.float32), post.astype(np.float32)
