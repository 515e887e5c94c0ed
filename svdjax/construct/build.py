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
from svdjax.construct.targets import site
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
      kind: key of `CONTROLS`.
      seed: of ``noise``.
      distances: ||W' - W_post||_F of the construction's matrices by projection, [L] for all layers
        of the plan, where they are known; else the construction is carried out first.
    """

    kind: str
    seed: int = 0
    distances: Mapping[str, np.ndarray] = field(default_factory=dict)


class StackBuilder:
    """Builds constructions out of stacks.

    Attributes:
      factorisation: key of `svdjax.spectral.FACTORISATIONS`.
      mesh: the devices, axis ``layers``.
      cache: where factors are looked up and kept; None to keep none. Without one no factors
        outlive their layer, which takes the least memory.
    """

    def __init__(
        self, factorisation: str, mesh: jax.sharding.Mesh, cache: ArrayCache | None = None
    ):
        self.factorisation, self.mesh, self.cache = factorisation, mesh, cache
        self._about = {"factorisation": factorisation, "versions": versions()}

    def values(self, stack: np.ndarray) -> np.ndarray:
        """Singular values [L, R] of matrices [L, I, O] as stored."""
        with working_precision(self.factorisation):
            found = values_stack(stack, factorisation=self.factorisation, mesh=self.mesh)
            return np.asarray(found)

    def build(
        self,
        recipe: Recipe,
        w_post: np.ndarray,
        w_partner: np.ndarray | None,
        w_base: np.ndarray | None = None,
        *,
        sigma: np.ndarray | None = None,
        alpha: np.ndarray | None = None,
        signs: str = "raw",
        dtype: np.dtype,
    ) -> Built:
        """The new matrices, on the host.

        Args:
          recipe: the construction.
          w_post: [L, I, O] as stored.
          w_partner: those of the partner; None where `sigma` is given.
          w_base: those of base, where they are not the partner's; for the surviving share.
          sigma: the partner's singular values [L, R], where they are all that enters and known.
          alpha: alpha' of each layer, [L]; eq. 9.
          signs: ``raw`` or ``aligned``.
          dtype: storage dtype of the result.
        """
        how: Any = {"name": recipe.name, "alpha": alpha, "signs": signs, "dtype": dtype}
        how["mesh"] = self.mesh
        with working_precision(self.factorisation):
            if self.cache is None:
                built = construct_stack(
                    w_post, w_partner, w_base, sigma=sigma, factorisation=self.factorisation, **how
                )
                return jax.device_get(built)
            origin = w_partner if w_base is None and recipe.partner == "base" else w_base
            post = self.factors(w_post)
            if recipe.values_only:
                if sigma is None:
                    assert w_partner is not None
                    sigma = np.asarray(self.factors(w_partner).s)
                partner: Any = Factors(None, sigma, None)  # type: ignore[arg-type]
            else:
                assert w_partner is not None
                partner = self.factors(w_partner)
            return jax.device_get(build_stack(w_post, post, partner, origin, **how))

    def control(
        self,
        kind: str,
        w_post: np.ndarray,
        w_base: np.ndarray,
        distance: np.ndarray | None,
        *,
        seeds: Sequence[Sequence[int]],
        dtype: np.dtype,
    ) -> Built:
        """The matrices of a control on the host; the arguments are those of `control_stack`."""
        with working_precision("svd_f64"):
            built = control_stack(
                w_post, w_base, distance, seeds, name=kind, dtype=dtype, mesh=self.mesh
            )
            return jax.device_get(built)

    def factors(self, stack: np.ndarray) -> Factors:
        """Factors of matrices [L, I, O] as stored; to be called within `working_precision`."""
        if self.cache is None:
            return factor_stack(stack, factorisation=self.factorisation, mesh=self.mesh)
        layers, rows, columns = stack.shape
        rank = min(rows, columns)
        shapes = {"u": (layers, rows, rank), "s": (layers, rank), "v": (layers, columns, rank)}
        dtype = np.dtype(get_factorisation(self.factorisation).dtype)
        key = content_key({"w": stack}, self._about)
        found = self.cache.read(key, {name: (shape, dtype) for name, shape in shapes.items()})
        if found is None:
            factors = jax.device_get(
                factor_stack(stack, factorisation=self.factorisation, mesh=self.mesh)
            )
            found = factors._asdict()
            self.cache.write(key, found)
        kept: Any = [found[name] for name in Factors._fields]
        return Factors(*kept)


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
    numbers: Sequence[int] | None = None,
) -> Generator[tuple[Group, Built, float], None, None]:
    """Yields the groups in order with their new matrices [L, I, O] and the seconds it took.

    Args:
      groups: of `plan`.
      plan: the partner as its base, and post.
      builder: how.
      recipe: the construction.
      sigma: the partner's singular values [L, R] by projection, for all layers of the plan, where
        they are all that enters and known; else without the projection.
      alphas: alpha' by projection; 1 where there is none.
      signs: ``raw`` or ``aligned``.
      dtype: storage dtype of a tensor, by name.
      check: called between groups; may raise to stop.
      base: the base model, where the partner is another post model.
      control: build this control of the construction instead.
      numbers: of the plan's layers in the model; None where it has them all.
    """

    def read(group: Group) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray]:
        partner, origin = padded_stack(plan.base, group), None
        if base is not None:
            origin = padded_stack(base, group)
        if group.projection.name in sigma:
            partner, origin = None, partner if origin is None else origin
        return partner, origin, padded_stack(plan.post, group)

    for group, (partner, origin, post) in prefetch(groups, read, check):
        began = time.perf_counter()
        name = group.projection.name
        values = None
        if name in sigma:
            values = sigma[name][group.start : group.stop]
            values = np.pad(values, ((0, group.length - len(values)), (0, 0)))
        dtypes = {dtype(tensor) for tensor in group.projection.tensors[group.start : group.stop]}
        # Where tensors of one group are stored differently, the writer rounds each.
        stored = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
        distance = _distances(control, group)
        if control is None or (control.kind != "reverted" and distance is None):
            built = builder.build(
                recipe,
                post,
                partner,
                origin,
                sigma=values,
                alpha=np.full(group.length, alphas.get(name, 1.0)),
                signs=signs,
                dtype=stored,
            )
            distance = np.asarray(built.change)
        if control is not None:
            w_base = partner if origin is None else origin
            assert w_base is not None
            layers = range(group.start, group.start + group.length)
            # Padding has whatever seeds.
            real = [n if numbers is None else numbers[min(n, len(numbers) - 1)] for n in layers]
            built = builder.control(
                control.kind,
                post,
                w_base,
                distance,
                seeds=noise_seeds(control.seed, site(group.projection), real),
                dtype=stored,
            )
        yield group, built, time.perf_counter() - began


def _distances(control: ControlSpec | None, group: Group) -> np.ndarray | None:
    """The distances of a group's matrices, filled up to its length; None if they are not known."""
    if control is None or group.projection.name not in control.distances:
        return None
    known = control.distances[group.projection.name][group.start : group.stop]
    return np.pad(known, (0, group.length - len(known)), mode="edge")


def by_tensor(group: Group, built: Built) -> dict[str, np.ndarray]:
    """The new matrices of a group by tensor, in the orientation of the checkpoint."""
    names = group.projection.tensors[group.start : group.stop]
    turned = group.projection.transposed
    return {
        name: np.asarray(built.w[layer].T if turned else built.w[layer])
        for layer, name in enumerate(names)
    }
