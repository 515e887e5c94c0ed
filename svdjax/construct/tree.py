"""The constructions over whole Flax pytrees.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).

Trees are nested dicts in the layout of `svdjax.checkpoint.load_params`; a linear layer is a leaf
such as ``layers/self_attn/q_proj/kernel``, [L, I, O]. What comes out is a new tree that shares
every leaf which was not edited; what went in is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.construct.build import StackBuilder
from svdjax.construct.controls import get_control, noise_seeds
from svdjax.construct.recipes import get_recipe
from svdjax.construct.selection import Layers, Modules, site_of
from svdjax.errors import InputError
from svdjax.spectral import (
    get_factorisation,
    statistics,
    values_stack,
    working_precision,
)

Tree = Mapping[str, Any]


def factorisation_for(factorisation: str, polar: bool) -> str:
    """The factorisation to use; ``auto`` takes Gram matrices where polar factors are enough."""
    if factorisation != "auto":
        return get_factorisation(factorisation).name
    return "gram_f64" if polar else "svd_f64"


def construct(
    partner: Tree,
    post: Tree,
    construction: str,
    *,
    modules: str = "",
    layers: Iterable[int] | None = None,
    alpha: float | Mapping[str, float] = 1.0,
    signs: str = "raw",
    factorisation: str = "auto",
    dtype: Any = None,
    mesh: jax.sharding.Mesh | None = None,
    control: str = "",
    base: Tree | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Carries out a construction on every chosen linear layer of a model.

    A pure function of its trees, traceable by jax (within `working_precision`, as it computes in
    float64).

    Args:
        partner: Parameters of base; for eq. 12 of the other post model.
        post: Parameters of the post-trained model.
        construction: ``eq9``, ``eq10``, ``eq11``, ``eq12``, ``eq14``, ``eq15`` or ``eq16``.
        modules: See `svdjax.construct.selection.Modules`; eqs. 9 and 14 default to all, the others
            have no default.
        layers: Numbers of the layers; None is all.
        alpha: alpha' of eq. 9, one or by projection; see `alphas` for the pair's own.
        signs: ``raw`` or ``aligned``; eqs. 10 and 15.
        factorisation: ``auto``, or a key of `svdjax.spectral.FACTORISATIONS`.
        dtype: Of the new leaves; None keeps those of post.
        mesh: Devices to spread the layers over, axis ``layers``.
        control: A key of `svdjax.construct.controls.CONTROLS`: that control of the construction
            instead of the construction itself.
        base: Parameters of base, for controls of eq. 12; elsewhere they are `partner`'s.
        seed: Of the control ``noise``.

    Raises:
        InputError: Unknown construction or control, nothing chosen, trees that do not fit together.
    """
    recipe = get_recipe(construction)
    if control:
        get_control(control)
        if base is None and recipe.partner == "other":
            raise InputError(f"base is not given: the controls of {construction} need it")
    if not modules and not recipe.everywhere:
        raise InputError(f"modules is not given: {construction} has no default; see Modules")
    builder = StackBuilder(factorisation_for(factorisation, recipe.polar), mesh)
    leaves, chosen = chosen_leaves(post, modules or "all", layers)
    new: dict[str, Any] = {}
    for path, leaf in leaves.items():
        shape = leaf_at(partner, path).shape
        if leaf.shape != shape:
            raise InputError(f"{path}: {list(leaf.shape)} in post, {list(shape)} in partner")
        trees = (post, partner, base) if control and base is not None else (post, partner)
        stacks = [flat(take_layers(leaf_at(tree, path), chosen, mesh)) for tree in trees]
        experts = range(shape[1]) if len(shape) > 3 else ()
        with working_precision(builder.factorisation):
            built = builder.build(
                recipe,
                *stacks,
                alpha=np.full(len(stacks[0]), _alpha_of(alpha, projection_of(path))),
                signs=signs,
                dtype=leaf.dtype if dtype is None else dtype,
                control=control,
                seeds=noise_seeds(seed, site_of(path), chosen, experts),
            )
            made = built.w.reshape(len(chosen), *shape[1:])
            new[path] = put_layers(leaf, chosen, made, mesh)
    return replaced_leaves(post, new)


def alphas(
    base: Tree,
    post: Tree,
    *,
    modules: str = "all",
    rounded: bool = True,
    mesh: jax.sharding.Mesh | None = None,
) -> dict[str, float]:
    """alpha' of a pair by projection: mean scaling of the top 90 % over all layers (Table 4).

    Args:
        base: Parameters of base.
        post: Parameters of post.
        modules: Which linear layers.
        rounded: To one decimal, as the paper does.
        mesh: Devices to spread the layers over.
    """
    scalings = {}
    for path in chosen_paths(post, modules):
        *_, rows, columns = leaf_at(post, path).shape
        with working_precision("svd_f64"):
            sigma_base, sigma_post = (
                np.asarray(values_stack(flat(leaf_at(tree, path)), mesh=mesh))
                for tree in (base, post)
            )
        eps = get_factorisation("svd_f64").eps
        svsm = statistics.svsm(sigma_base, sigma_post, (rows, columns), eps)
        scaling = statistics.svsm_statistics(svsm)
        scalings[projection_of(path)] = scaling.alpha_prime if rounded else scaling.alpha_mean
    return scalings


def kernels(tree: Tree) -> list[str]:
    """Paths of all linear layers inside the blocks, in the order of the tree."""
    return [path for path in paths(tree) if path.startswith("layers/") and path.endswith("/kernel")]


def chosen_paths(tree: Tree, modules: str) -> list[str]:
    """Paths of the chosen linear layers.

    Raises:
        InputError: None is.
    """
    by_site = {site_of(path): path for path in kernels(tree)}
    return [by_site[site] for site in Modules(modules).choose(list(by_site))]


def chosen_leaves(
    tree: Tree, modules: str, layers: Iterable[int] | None
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The chosen linear layers by path, and the numbers of the chosen layers, ascending.

    Raises:
        InputError: Nothing is chosen, or stacks are not [L, I, O] or [L, E, I, O] of one depth.
    """
    leaves = {path: leaf_at(tree, path) for path in chosen_paths(tree, modules)}
    first = next(iter(leaves))
    for path, leaf in leaves.items():
        if len(leaf.shape) not in (3, 4) or leaf.shape[0] != leaves[first].shape[0]:
            raise InputError(
                f"{path}: expected a shape [layers, in, out] or [layers, experts, in, out], and as "
                f"many layers in all of them, found {list(leaf.shape)}, and "
                f"{list(leaves[first].shape)} in {first}"
            )
    return leaves, Layers.of(layers).choose(leaves[first].shape[0])


def projection_of(path: str) -> str:
    """Name of the projection of a leaf: ``q_proj``, of a mixture ``experts.gate_proj``."""
    return site_of(path).partition(".")[2]


def flat(leaf: Any) -> Any:
    """The matrices of a leaf [..., I, O] as one stack, layer by layer."""
    return leaf.reshape(-1, *leaf.shape[-2:])


def take_layers(leaf: Any, layers: Sequence[int], mesh: jax.sharding.Mesh | None) -> Any:
    """The chosen layers of a leaf [L, ...]."""
    leaf = _anywhere(leaf, mesh)
    return leaf[np.array(layers)] if len(layers) < leaf.shape[0] else leaf


def put_layers(
    leaf: Any, layers: Sequence[int], new: jax.Array, mesh: jax.sharding.Mesh | None
) -> jax.Array:
    """A leaf [L, ...] in the dtype of `new`, which replaces the chosen layers."""
    if len(layers) == leaf.shape[0]:
        return new
    # Numpy leaves widen in numpy: XLA would flush subnormal numbers of other layers.
    return jnp.asarray(_anywhere(leaf, mesh).astype(new.dtype)).at[np.array(layers)].set(new)


def _anywhere(leaf: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """A leaf of which any rows can be taken: placed arrays go whole to every device of the mesh."""
    if mesh is None or isinstance(leaf, np.ndarray):
        return leaf
    # Auto axes: which device has which row of a gather is ambiguous with explicit ones.
    mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
    return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


def _alpha_of(alpha: float | Mapping[str, float], name: str) -> float:
    if not isinstance(alpha, Mapping):
        return alpha
    if name not in alpha:
        raise InputError(f"alpha: no number for {name}; there are {', '.join(alpha)}")
    return alpha[name]


def paths(tree: Tree, prefix: str = "") -> Iterator[str]:
    """Paths of all leaves, parts joined by "/"."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from paths(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}"


def leaf_at(tree: Tree, path: str) -> Any:
    """The leaf of a path.

    Raises:
        InputError: There is none.
    """
    node: Any = tree
    for part in path.split("/"):
        if not isinstance(node, Mapping) or part not in node:
            raise InputError(f"{path}: no such leaf in one of the trees")
        node = node[part]
    return node


def replaced_leaves(tree: Tree, new: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A new tree with some leaves replaced, the others shared."""
    if not prefix and (unknown := new.keys() - set(paths(tree))):
        raise InputError(
            f"{', '.join(sorted(unknown))}: no leaf of the model, whose linear layers are written "
            "otherwise (fused, or not as experts) than those that were constructed"
        )
    return {
        key: replaced_leaves(value, new, f"{prefix}{key}/")
        if isinstance(value, Mapping)
        else new.get(f"{prefix}{key}", value)
        for key, value in tree.items()
    }
