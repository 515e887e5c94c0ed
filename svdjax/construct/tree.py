"""The constructions over whole Flax pytrees.

Axis legend: `L` layers, `I` in, `O` out, `R` = min(I, O).

Trees are nested dicts in the layout of `svdjax.checkpoint.load_params`; a linear layer is a leaf
such as ``layers/self_attn/q_proj/kernel``, [L, I, O]. What comes out is a new tree that shares
every leaf which was not edited; what went in is left as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.construct.controls import get_control, noise_seeds
from svdjax.construct.recipes import get_recipe
from svdjax.construct.selection import Layers, Modules, site_of
from svdjax.errors import InputError
from svdjax.spectral import (
    construct_stack,
    control_stack,
    get_factorisation,
    statistics,
    values_stack,
    working_precision,
)

Tree = Mapping[str, Any]


def route_for(factorisation: str, polar: bool) -> str:
    """The factorisation to use; ``auto`` takes the Gram route where polar factors are enough."""
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
    """Carry out a construction on every chosen linear layer of a model.

    A pure function of its trees, traceable by jax (within `working_precision`, as it computes in
    float64).

    Args:
      partner: parameters of base; for eq. 12 of the other post model.
      post: parameters of the post-trained model.
      construction: ``eq9``, ``eq10``, ``eq11``, ``eq12``, ``eq14``, ``eq15`` or ``eq16``.
      modules: see `svdjax.construct.selection.Modules`; eqs. 9 and 14 default to all, the
        others have no default.
      layers: numbers of the layers; None is all.
      alpha: alpha' of eq. 9, one or by projection; see `alphas` for the pair's own.
      signs: ``raw`` or ``aligned``; eqs. 10 and 15.
      factorisation: ``auto``, or a key of `svdjax.spectral.FACTORISATIONS`.
      dtype: of the new leaves; None keeps those of post.
      mesh: devices to spread the layers over, axis ``layers``.
      control: a key of `svdjax.construct.controls.CONTROLS`: that control of the construction
        instead of the construction itself.
      base: parameters of base, for controls of eq. 12; elsewhere they are `partner`'s.
      seed: of the control ``noise``.

    Raises:
      InputError: unknown construction or control, nothing chosen, trees that do not fit together.
    """
    recipe = get_recipe(construction)
    if control:
        get_control(control)
        if base is None and recipe.partner == "other":
            raise InputError(f"base is not given: the controls of {construction} need it")
    if not modules and not recipe.everywhere:
        raise InputError(f"modules is not given: {construction} has no default; see Modules")
    route = route_for(factorisation, recipe.polar)
    new: dict[str, Any] = {}
    leaves, chosen = chosen_leaves(post, modules or "all", layers)
    index = np.array(chosen)
    for path, leaf in leaves.items():
        other = leaf_at(partner, path)
        if leaf.shape != other.shape:
            raise InputError(f"{path}: {list(leaf.shape)} in post, {list(other.shape)} in partner")
        leaf, other = rows_within(leaf, mesh), rows_within(other, mesh)
        part = len(chosen) < leaf.shape[0]
        name = path.split("/")[-2]
        if isinstance(alpha, Mapping) and name not in alpha:
            raise InputError(f"alpha: no number for {name}; there are {', '.join(alpha)}")
        factor = alpha[name] if isinstance(alpha, Mapping) else alpha
        with working_precision(route):
            before = leaf[index] if part else leaf
            stored: Any = leaf.dtype if dtype is None else dtype
            built = None
            if control != "reverted":
                built = construct_stack(
                    before,
                    other[index] if part else other,
                    name=construction,
                    alpha=np.full(len(chosen), factor),
                    signs=signs,
                    dtype=stored,
                    factorisation=route,
                    mesh=mesh,
                )
            if control:
                origin = other if base is None else rows_within(leaf_at(base, path), mesh)
                built = control_stack(
                    before,
                    origin[index] if part else origin,
                    None if built is None else built.change,
                    noise_seeds(seed, site_of(path), chosen),
                    name=control,
                    dtype=stored,
                    mesh=mesh,
                )
            assert built is not None
            new[path] = built.w
            if part:
                # Numpy leaves widen in numpy: XLA would flush subnormal numbers of other layers.
                new[path] = jnp.asarray(leaf.astype(built.w.dtype)).at[index].set(built.w)
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
      base: parameters of base.
      post: parameters of post.
      modules: which linear layers.
      rounded: to one decimal, as the paper does.
      mesh: devices to spread the layers over.
    """
    found = {}
    for path in chosen_paths(post, modules):
        leaf = leaf_at(post, path)
        with working_precision("svd_f64"):
            before, after = (
                np.asarray(values_stack(leaf_at(tree, path), mesh=mesh)) for tree in (base, post)
            )
        shape = (leaf.shape[1], leaf.shape[2])
        svsm = statistics.svsm(before, after, shape, get_factorisation("svd_f64").eps)
        measured = statistics.svsm_statistics(svsm)
        found[path.split("/")[-2]] = measured.alpha_prime if rounded else measured.alpha_mean
    return found


def kernels(tree: Tree) -> list[str]:
    """Paths of all linear layers inside the blocks, in the order of the tree."""
    return [path for path in paths(tree) if path.startswith("layers/") and path.endswith("/kernel")]


def chosen_paths(tree: Tree, modules: str) -> list[str]:
    """Paths of the chosen linear layers.

    Raises:
      InputError: none is.
    """
    by_site = {site_of(path): path for path in kernels(tree)}
    return [by_site[site] for site in Modules(modules).choose(list(by_site))]


def chosen_leaves(
    tree: Tree, modules: str, layers: Iterable[int] | None
) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The chosen linear layers by path, and the numbers of the chosen layers, ascending.

    Raises:
      InputError: nothing is chosen, or stacks are not [L, I, O] of one depth.
    """
    leaves = {path: leaf_at(tree, path) for path in chosen_paths(tree, modules)}
    first = next(iter(leaves))
    for path, leaf in leaves.items():
        if len(leaf.shape) != 3 or leaf.shape[0] != leaves[first].shape[0]:
            raise InputError(
                f"{path}: expected a shape [layers, in, out], and as many layers in all of them, "
                f"found {list(leaf.shape)}, and {list(leaves[first].shape)} in {first}"
            )
    return leaves, Layers.of(layers).choose(leaves[first].shape[0])


def rows_within(leaf: Any, mesh: jax.sharding.Mesh | None) -> Any:
    """A leaf of which any rows can be taken: placed arrays go whole to every device of the mesh."""
    if mesh is None or isinstance(leaf, np.ndarray):
        return leaf
    # Auto axes: which device has which row of a gather is ambiguous with explicit ones.
    mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
    return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))


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
      InputError: there is none.
    """
    node: Any = tree
    for part in path.split("/"):
        if not isinstance(node, Mapping) or part not in node:
            raise InputError(f"{path}: no such leaf in one of the trees")
        node = node[part]
    return node


def replaced_leaves(tree: Tree, new: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A new tree with some leaves replaced, the others shared."""
    return {
        key: replaced_leaves(value, new, f"{prefix}{key}/")
        if isinstance(value, Mapping)
        else new.get(f"{prefix}{key}", value)
        for key, value in tree.items()
    }
