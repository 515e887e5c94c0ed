"""Initialisations from singular components, and scaling by layer, over whole Flax pytrees.

Axis legend: `L` layers, `C` chosen layers, `I` in, `O` out, `K` rank of what is taken out.

Trees are as in `svdjax.construct.tree`; what goes in is left as it was, and what is not
changed is shared.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.construct.tree import (
    Tree,
    chosen_leaves,
    kernels,
    put_layers,
    replaced_leaves,
    take_layers,
)
from svdjax.errors import InputError, did_you_mean
from svdjax.spectral.components import split_stack, start_of
from svdjax.spectral.factorisation import working_precision

Factor = float | Sequence[float] | np.ndarray


@dataclasses.dataclass(frozen=True)
class LoraFactors:
    """Low-rank factors of some linear layers, as `svdjax.checkpoint.adapter` writes them.

    Attributes:
        rank: `K`.
        layers: Numbers of the layers, ascending.
        factors: Path of the kernel to (A [C, I, K], B [C, K, O]), float32, one row for each of
            `layers`.
        where: Which components they are, as it was asked for.
    """

    rank: int
    layers: tuple[int, ...]
    factors: dict[str, tuple[jax.Array, jax.Array]]
    where: str | int = "top"


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
    """Splits every chosen W into A B, from singular components, and a residual (appendix F).

    Training A and B from there is PiSSA (arXiv 2404.02948) for the top components; the paper
    suggests the middle ones. A component whose singular value is 0 begins with A and B of 0 and
    does not train: mind the bottom of rank-deficient matrices.

    Args:
        params: A model's parameters.
        rank: How many components.
        where: ``top``, ``middle``, ``bottom``, or the number of the first one.
        modules: See `svdjax.construct.selection.Modules`.
        layers: Numbers of the layers; None is all.
        factorisation: Key of `svdjax.spectral.FACTORISATIONS`.
        mesh: Devices to spread the layers over, axis ``layers``.

    Returns:
        The tree with the residuals in the chosen places (whole leaves in float32: rounding them to
        less would lose what A B cannot give back), and the factors.

    Raises:
        InputError: Nothing is chosen, or a matrix has no such components.
    """
    leaves, numbers = chosen_leaves(params, modules, layers)
    starts = {
        path: start_of(where, rank, min(leaf.shape[1:]), path) for path, leaf in leaves.items()
    }
    new, factors = {}, {}
    for path, start in starts.items():
        with working_precision(factorisation):
            split = split_stack(
                take_layers(leaves[path], numbers, mesh),
                start=start,
                rank=rank,
                factorisation=factorisation,
                mesh=mesh,
            )
            factors[path] = (split.a, split.b)
            new[path] = put_layers(leaves[path], numbers, split.residual, mesh)
    return replaced_leaves(params, new), LoraFactors(int(rank), numbers, factors, where)


def scaled(
    params: Tree,
    factor: Factor | Mapping[str, Factor],
    *,
    modules: str = "all",
    layers: Iterable[int] | None = None,
) -> dict[str, Any]:
    """Multiplies the chosen W, and so all of their singular values, by factors above 0.

    ``scaled(params, 1.4, modules="o_proj")`` is appendix F's start for reasoning training. No SVD:
    ``U (c S) V^T = c W``. Biases stay as they are, for they are no part of W. The product is formed
    in float32 (float64 for leaves of that) and rounded to the leaf's dtype, whose range it may
    leave: then it is infinite, which `svdjax.checkpoint.save_checkpoint` refuses to write. Layers
    that are not chosen keep their bits.

    Args:
        params: A model's parameters.
        factor: A number; one for each layer of the model, [L]; or either by projection, which may
            name more projections than are chosen but no fewer.
        modules: See `svdjax.construct.selection.Modules`.
        layers: Numbers of the layers that are scaled; None is all.

    Raises:
        InputError: Nothing is chosen, or the factors do not fit.
    """
    if isinstance(factor, Mapping):
        _check_names(factor, [path.split("/")[-2] for path in kernels(params)])
    leaves, numbers = chosen_leaves(params, modules, layers)
    factors = {
        path: factors_of(factor, path.split("/")[-2], leaf.shape[0])
        for path, leaf in leaves.items()
    }
    new = {path: _multiplied(leaf, numbers, factors[path]) for path, leaf in leaves.items()}
    return replaced_leaves(params, new)


def factors_of(factor: Factor | Mapping[str, Factor], name: str, layers: int) -> np.ndarray:
    """The factor of every layer of one projection, [L] float64.

    Raises:
        InputError: There is none for this projection, another number of them than layers, or one is
            not a finite number above 0.
    """
    if isinstance(factor, Mapping):
        if name not in factor:
            raise InputError(f"factor: none for {name}; there are {', '.join(factor) or 'none'}")
        return factors_of(factor[name], name, layers)
    expected = f"factor of {name}: expected a number, or one for each of {layers} layers, found"
    try:
        values = np.asarray(factor, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{expected} {factor!r}") from None
    if values.shape not in ((), (layers,)):
        raise InputError(f"{expected} shape {list(values.shape)}")
    wrong = ~(np.isfinite(values) & (values > 0))
    if wrong.any():
        layer = f", layer {int(np.argmax(wrong))}," if values.ndim else ""
        raise InputError(
            f"factor of {name}{layer} is {values[wrong][0]}, expected a finite number above 0"
        )
    return np.broadcast_to(values, (layers,)).copy()


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
    """Scales the chosen W of one layer at a time: the layer-wise scaling of singular values.

    What is asked for is checked at once, the models are made one after the other as they are
    asked for, layer by layer and factor by factor within one. All share the leaves that are not
    chosen; of a chosen one, which holds all layers, each has its own.

    Args:
        params: A model's parameters.
        factors: What to scale by.
        modules: See `svdjax.construct.selection.Modules`.
        layers: Numbers of the layers to go through; None is all.

    Raises:
        InputError: As `scaled`, or there are no factors.
    """
    steps = [float(factors_of(factor, "the sweep", 1)[0]) for factor in factors]
    if not steps:
        raise InputError("factors of the sweep: none is given")
    _, numbers = chosen_leaves(params, modules, layers)

    def models() -> Iterator[Scaled]:
        for layer in numbers:
            for step in steps:
                yield Scaled(layer, step, scaled(params, step, modules=modules, layers=[layer]))

    return models()


def _check_names(factor: Mapping[str, Factor], known: list[str]) -> None:
    for name in factor:
        if name not in known:
            raise InputError(
                f"factor: no projection {name!r} in this model; there are {', '.join(known)}"
                + did_you_mean(name, known)
            )


def _multiplied(leaf: Any, numbers: tuple[int, ...], factors: np.ndarray) -> jax.Array:
    """A leaf [L, I, O] with the layers `numbers` multiplied by their `factors`, of all [L]."""
    wide = np.promote_types(leaf.dtype, np.float32)
    chosen = np.isin(np.arange(leaf.shape[0]), numbers)[:, None, None]
    with jax.enable_x64(True) if wide == np.float64 else contextlib.nullcontext():
        product = jnp.asarray(leaf, wide) * jnp.asarray(factors, wide)[:, None, None]
        # Other layers are not multiplied by 1, which would flush their subnormal numbers.
        return jnp.where(chosen, product.astype(leaf.dtype), jnp.asarray(leaf))
