"""Initialisations from singular components, and scaling by layer, over whole Flax pytrees.

Axis legend: `L` layers, `I` in, `O` out, `K` rank of what is taken out.

Trees are as in `svdjax.constructions.tree`; what goes in is left as it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.constructions.selection import Layers
from svdjax.constructions.tree import Tree, chosen_paths, leaf_at, replaced_leaves
from svdjax.errors import InputError
from svdjax.spectral.components import split_stack, start_of
from svdjax.spectral.factors import working_precision

Factor = float | Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class LoraFactors:
    """Low-rank factors of some linear layers.

    Attributes:
      rank: `K`.
      layers: numbers of the layers.
      factors: path of the kernel to (A [L, I, K], B [L, K, O]), float32, one row per layer of
        `layers`.
    """

    rank: int
    layers: tuple[int, ...]
    factors: dict[str, tuple[jax.Array, jax.Array]]


def lora_split(
    params: Tree,
    *,
    rank: int,
    where: str | int = "top",
    modules: str = "all",
    layers: Iterable[int] | None = None,
    factorisation: str = "svd_f64",
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[dict[str, Any], LoraFactors]:
    """Split every chosen W into A B, from singular components, and a residual (appendix F).

    Training A and B from there is PiSSA (arXiv 2404.02948) for the top components; the paper
    suggests the middle ones, which post-training rotates most.

    Args:
      params: a model's parameters.
      rank: how many components.
      where: ``top``, ``middle``, ``bottom``, or the number of the first one.
      modules: see `svdjax.constructions.selection.Modules`.
      layers: numbers of the layers; None is all.
      factorisation: key of `svdjax.spectral.FACTORISATIONS`.
      mesh: devices to spread the layers over, axis ``layers``.

    Returns:
      The tree with the residuals in the chosen places (float32: rounding them to less would lose
      what A B cannot give back), and the factors.

    Raises:
      InputError: nothing is chosen, or a matrix has no such components.
    """
    new, factors, numbers = {}, {}, ()
    for path in chosen_paths(params, modules):
        leaf = leaf_at(params, path)
        numbers = Layers.of(layers).choose(leaf.shape[0])
        index = np.array(numbers)
        start = start_of(where, rank, min(leaf.shape[1:]), path)
        with working_precision(factorisation):
            split = split_stack(
                leaf[index], start=start, rank=rank, factorisation=factorisation, mesh=mesh
            )
            factors[path] = (split.a, split.b)
            new[path] = jnp.asarray(leaf, "float32").at[index].set(split.residual)
    return replaced_leaves(params, new), LoraFactors(rank, numbers, factors)


def scaled(
    params: Tree,
    factor: Factor | Mapping[str, Factor],
    *,
    modules: str = "all",
    layers: Iterable[int] | None = None,
) -> dict[str, Any]:
    """Multiply the chosen W, and so all of their singular values, by factors above 0.

    ``scaled(params, 1.4, modules="o_proj")`` is appendix F's start for reasoning training. Biases
    are no part of W and stay.

    Args:
      params: a model's parameters.
      factor: a number; one for each layer of the model, [L]; or either by projection.
      modules: see `svdjax.constructions.selection.Modules`.
      layers: numbers of the layers that are scaled; None is all.

    Raises:
      InputError: nothing is chosen, or the factors do not fit.
    """
    new = {}
    for path in chosen_paths(params, modules):
        leaf, name = leaf_at(params, path), path.split("/")[-2]
        by_layer = factors_of(factor, name, leaf.shape[0])
        chosen = Layers.of(layers).choose(leaf.shape[0])
        kept = np.ones(leaf.shape[0])
        kept[list(chosen)] = by_layer[list(chosen)]
        # Once rounded to float32, the product is rounded to the leaf's dtype.
        wide = jnp.asarray(leaf, np.promote_types(leaf.dtype, np.float32))
        new[path] = (wide * jnp.asarray(kept, wide.dtype)[:, None, None]).astype(leaf.dtype)
    return replaced_leaves(params, new)


def factors_of(factor: Factor | Mapping[str, Factor], name: str, layers: int) -> np.ndarray:
    """The factor of every layer of one projection, [L] float64.

    Raises:
      InputError: there is none for this projection, another number of them than layers, or one is
        not a finite number above 0.
    """
    if isinstance(factor, Mapping):
        if name not in factor:
            raise InputError(f"factor: none for {name}; there are {', '.join(factor)}")
        return factors_of(factor[name], name, layers)
    found = np.asarray(factor, np.float64)
    if found.ndim > 1 or (found.ndim == 1 and found.shape != (layers,)):
        raise InputError(
            f"factor of {name}: expected a number, or one for each of {layers} layers, found "
            f"shape {list(found.shape)}"
        )
    if not (np.isfinite(found).all() and (found > 0).all()):
        bad = found.reshape(-1)[~(np.isfinite(found) & (found > 0)).reshape(-1)][0]
        raise InputError(f"factor of {name} is {bad}, expected a finite number above 0")
    return np.broadcast_to(found, (layers,)).copy()


class Scaled(NamedTuple):
    """One step of `layer_sweep`: a model in which one layer is scaled."""

    layer: int
    factor: float
    params: dict[str, Any]


def layer_sweep(
    params: Tree,
    factors: Iterable[float],
    *,
    modules: str = "all",
    layers: Iterable[int] | None = None,
) -> Iterator[Scaled]:
    """Scale the chosen W of one layer at a time: the layer-wise scaling of singular values.

    Yields one model after the other, for each layer and each factor; leaves that are not chosen
    are shared by all.

    Args:
      params: a model's parameters.
      factors: what to scale by.
      modules: see `svdjax.constructions.selection.Modules`.
      layers: numbers of the layers to go through; None is all.

    Raises:
      InputError: as `scaled`.
    """
    steps = [float(factor) for factor in factors]
    if not all(math.isfinite(step) and step > 0 for step in steps):
        raise InputError(f"factors {steps}: expected finite numbers above 0")
    depth = leaf_at(params, chosen_paths(params, modules)[0]).shape[0]
    for layer in Layers.of(layers).choose(depth):
        for step in steps:
            yield Scaled(layer, step, scaled(params, step, modules=modules, layers=[layer]))
