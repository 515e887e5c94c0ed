"""From stacks of matrices to constructed ones, with a cache of factors where there is one.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from svdjax.checkpoint import Checkpoint, PairPlan
from svdjax.checkpoint.cache import ArrayCache, content_key
from svdjax.construct.controls import noise_seeds
from svdjax.construct.recipes import Recipe
from svdjax.construct.selection import site
from svdjax.engine.devices import versions
from svdjax.engine.groups import Group
from svdjax.engine.prefetch import prefetch
from svdjax.spectra.compute import padded_stack
from svdjax.spectral import (
    Built,
    Factors,
    build_stack,
    construct_stack,
    control_stack,
    factor_stack,
    get_factorisation,
    values_stack,
    working_precision,
)


@dataclass(frozen=True)
class ControlSpec:
    """Which control of a construction is built, see `svdjax.construct.controls`.

    Attributes:
        kind: Key of `CONTROLS`; empty for the construction itself.
        seed: Of ``noise``.
        distances: ||W' - W_post||_F of the construction's matrices by projection, [L] for all
            layers of the plan, where they are known; else the construction is carried out first.
    """

    kind: str = ""
    seed: int = 0
    distances: Mapping[str, np.ndarray] = field(default_factory=dict)


class StackBuilder:
    """Builds constructions out of stacks.

    Attributes:
        factorisation: Key of `svdjax.spectral.FACTORISATIONS`.
        mesh: The devices, axis ``layers``.
        cache: Where factors are looked up and kept; None to keep none. Without one no factors
            outlive their layer, which takes the least memory.
    """

    def __init__(
        self, factorisation: str, mesh: jax.sharding.Mesh | None, cache: ArrayCache | None = None
    ):
        self.factorisation, self.mesh, self.cache = factorisation, mesh, cache

    def values(self, stack: np.ndarray) -> np.ndarray:
        """Singular values [L, R] of matrices [L, I, O] as stored."""
        with working_precision(self.factorisation):
            values = values_stack(stack, factorisation=self.factorisation, mesh=self.mesh)
            return np.asarray(values)

    def build(
        self,
        recipe: Recipe,
        w_post: Any,
        w_partner: Any,
        w_base: Any = None,
        *,
        sigma: np.ndarray | None = None,
        alpha: np.ndarray | None = None,
        signs: str = "raw",
        dtype: np.dtype,
        control: str = "",
        distance: Any = None,
        seeds: Sequence[Sequence[int]] = (),
    ) -> Built:
        """The new matrices: of a construction, or of a control of it.

        Args:
            recipe: The construction.
            w_post: [L, I, O] as stored.
            w_partner: Those of the partner; None where `sigma` is given.
            w_base: Those of base, where they are not the partner's; for the surviving share.
            sigma: The partner's singular values [L, R], where they are all that enters and known.
            alpha: alpha' of each layer, [L]; eq. 9.
            signs: ``raw`` or ``aligned``.
            dtype: Storage dtype of the result.
            control: Key of `CONTROLS`; empty for the construction itself.
            distance: How far the construction moves each matrix, [L], for its control; None to
                carry it out.
            seeds: What the noise of each layer is drawn from, see `noise_seeds`.
        """
        built = None
        if not control or (control != "reverted" and distance is None):
            options: Any = {"name": recipe.name, "alpha": alpha, "signs": signs, "dtype": dtype}
            with working_precision(self.factorisation):
                built = self._construct(recipe, w_post, w_partner, w_base, sigma, options)
            distance = built.change
        if control:
            if w_base is None:
                w_base = w_partner
            options = {"name": control, "dtype": dtype, "mesh": self.mesh}
            with working_precision("svd_f64"):
                built = control_stack(w_post, w_base, distance, seeds, **options)
        assert built is not None
        return built

    def _construct(
        self, recipe: Recipe, w_post: Any, w_partner: Any, w_base: Any, sigma: Any, options: Any
    ) -> Built:
        options["mesh"] = self.mesh
        if self.cache is None:
            options["factorisation"] = self.factorisation
            return construct_stack(w_post, w_partner, w_base, sigma=sigma, **options)
        if w_base is None and recipe.partner == "base":
            w_base = w_partner
        post = self._factors(self.cache, w_post)
        if not recipe.values_only:
            partner = self._factors(self.cache, w_partner)
        else:
            if sigma is None:
                sigma = np.asarray(self._factors(self.cache, w_partner).s)
            partner = Factors(None, sigma, None)  # type: ignore[arg-type]
        return build_stack(w_post, post, partner, w_base, **options)

    def cache_factors(self, stack: np.ndarray) -> None:
        """Puts the factors of matrices [L, I, O] as stored into the cache, unless it has them."""
        if self.cache is not None:
            with working_precision(self.factorisation):
                self._factors(self.cache, stack)

    def _factors(self, cache: ArrayCache, stack: np.ndarray) -> Factors:
        """Factors of matrices [L, I, O] as stored; to be called within `working_precision`."""
        layers, rows, columns = stack.shape
        rank = min(rows, columns)
        shapes = {"u": (layers, rows, rank), "s": (layers, rank), "v": (layers, columns, rank)}
        dtype = np.dtype(get_factorisation(self.factorisation).dtype)
        about = {"factorisation": self.factorisation, "versions": versions()}
        key = content_key({"w": stack}, about)
        arrays: Any = cache.read(key, {name: (shape, dtype) for name, shape in shapes.items()})
        if arrays is None:
            factors = factor_stack(stack, factorisation=self.factorisation, mesh=self.mesh)
            arrays = jax.device_get(factors)._asdict()
            cache.write(key, arrays)
        return Factors(**arrays)


def build_groups(
    groups: Sequence[Group],
    plan: PairPlan,
    builder: StackBuilder,
    recipe: Recipe,
    *,
    sigma: Mapping[str, np.ndarray],
    alphas: Mapping[str, float],
    signs: str,
    dtype: Callable[[str], np.dtype],
    check: Callable[[], None] = lambda: None,
    base: Checkpoint | None = None,
    control: ControlSpec | None = None,
) -> Generator[tuple[Group, Built, float], None, None]:
    """Yields the groups in order with their new matrices [L, I, O] and the seconds it took.

    Args:
        groups: Of `plan`.
        plan: The partner as its base, and post.
        builder: What builds their stacks.
        recipe: The construction.
        sigma: The partner's singular values [L, R] by projection, for all layers of the plan, where
            they are all that enters and known; else without the projection.
        alphas: alpha' by projection; 1 where there is none.
        signs: ``raw`` or ``aligned``.
        dtype: Storage dtype of a tensor, by name.
        check: Called between groups; may raise to stop.
        base: The base model, where the partner is another post model.
        control: Build this control of the construction instead.
    """

    def read(group: Group) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
        partner, origin = padded_stack(plan.base, group), None
        if base is not None:
            origin = padded_stack(base, group)
        if group.projection.name in sigma:
            partner, origin = None, partner if origin is None else origin
        return partner, origin, padded_stack(plan.post, group)

    control = control or ControlSpec()
    for group, (partner, origin, post) in prefetch(groups, read, check):
        began = time.perf_counter()
        name = group.projection.name
        dtypes = {dtype(tensor) for tensor in group.tensors}
        projection = group.projection
        seeds = noise_seeds(control.seed, site(projection), projection.layers, projection.experts)
        built = builder.build(
            recipe,
            post,
            partner,
            origin,
            sigma=_rows(sigma[name], group) if name in sigma else None,
            alpha=np.full(group.length, alphas.get(name, 1.0)),
            signs=signs,
            # Where tensors of one group are stored differently, the writer rounds each.
            dtype=dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32),
            control=control.kind,
            distance=_rows(control.distances[name], group) if name in control.distances else None,
            seeds=_rows(seeds, group).tolist(),
        )
        yield group, jax.device_get(built), time.perf_counter() - began


def _rows(values: Any, group: Group) -> np.ndarray:
    """What belongs to a group's layers, filled up to its length as its stacks are."""
    rows = np.asarray(values)[group.start : group.stop]
    width = ((0, group.length - len(rows)), *[(0, 0)] * (rows.ndim - 1))
    return np.pad(rows, width, mode="edge")


def by_tensor(group: Group, w: Any) -> dict[str, np.ndarray]:
    """The new matrices [L, I, O] of a group by tensor, in the orientation of the checkpoint."""
    return {
        name: np.asarray(w[layer].T if group.projection.transposed else w[layer])
        for layer, name in enumerate(group.tensors)
    }
