"""Arrays in memory as the two sides of a pair: what `svdjax.compare_params` compares."""

from __future__ import annotations

import itertools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from svdjax.checkpoint import Checkpoint, PairPlan, Projection
from svdjax.checkpoint.formats import FLOATS
from svdjax.checkpoint.safetensors_file import TensorSpec
from svdjax.engine.inputs import PairJob
from svdjax.engine.pairs import PairSpec
from svdjax.errors import InputError

_LEAF = re.compile(r"/(kernel|value)$")
_LAYER = re.compile(r"(?:^|(?<=[/_.]))\d+(?=/|$)")


class ArrayCheckpoint(Checkpoint):
    """Arrays by name in the place of a checkpoint; they go to the host one by one, when read."""

    def __init__(self, side: str, arrays: Mapping[str, Any]):
        """`side`: its name in messages; `arrays`: matrices [I, O]."""
        self.source, self.path, self.config = side, pathlib.Path(side), {}
        self.names, self.files, self.notes, self.described = tuple(sorted(arrays)), (), (), ()
        self._arrays = arrays

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def spec(self, name: str) -> TensorSpec:
        """Shape and dtype of a matrix."""
        array = self._arrays[name]
        return TensorSpec(tuple(array.shape), np.dtype(array.dtype), self.source, (0, 0))

    def where(self, name: str) -> pathlib.Path:
        """The side, for messages."""
        del name
        return self.path

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """A matrix on the host."""
        array = np.asarray(self._arrays[name])
        return array if rows is None else array[slice(*rows)]

    def check_unchanged(self) -> None:
        """Nothing: arrays are not watched."""


def matrices_job(base: Any, post: Any) -> PairJob:
    """A pair of matrices [I, O], or stacks of them [L, I, O]; the projection is called ``matrix``.

    Raises:
        InputError: Their shapes differ, or they are neither.
    """
    shapes = [tuple(np.shape(side)) for side in (base, post)]
    if shapes[0] != shapes[1] or len(shapes[0]) not in (2, 3):
        raise InputError(
            f"matrices of shapes {list(shapes[0])} and {list(shapes[1])}: expected two of one "
            "shape, [in, out] or [layers, in, out]"
        )
    return params_job({"matrix": base}, {"matrix": post})


def params_job(base: Any, post: Any) -> PairJob:
    """A pair of pytrees; see `svdjax.compare_params`.

    Raises:
        InputError: They have no matrix of the same path and shape, or stacks of several depths.
    """
    sides = {"base": _leaves(base), "post": _leaves(post)}
    left_out: dict[str, str] = {}
    for path in dict.fromkeys([*sides["base"], *sides["post"]]):
        if reason := _why_not(path, sides["base"].get(path), sides["post"].get(path)):
            left_out[path] = reason
    chosen = {p: leaf for p, leaf in sides["base"].items() if p not in left_out}
    if not chosen:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in list(left_out.items())[:5])
        raise InputError(
            "base and post have no matrix of the same path and shape; expected two pytrees of one "
            f"model, with leaves [in, out] or [layers, in, out] ({reasons or 'no leaf at all'})"
        )
    depths = {path: leaf.shape[0] for path, leaf in chosen.items() if leaf.ndim > 2}
    if len(set(depths.values())) > 1:
        shown = ", ".join(f"{list(chosen[path].shape)} at {path}" for path in list(depths)[:3])
        raise InputError(
            f"leaves of three dimensions are stacks [layers, in, out] of one depth, found {shown}: "
            "reshape kernels of attention heads to [in, out] first"
        )
    projections = _projections(chosen)
    checkpoints = {
        side: ArrayCheckpoint(side, dict(_matrices(leaves, projections)))
        for side, leaves in sides.items()
    }
    coverage = {"analysed": sorted(chosen), "left_out": left_out, "notes": []}
    plan = PairPlan(
        checkpoints["base"], checkpoints["post"], "arrays", tuple(projections), coverage, ()
    )
    return PairJob(PairSpec("pair", "base", "post"), plan)


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree by path, parts joined by "/"."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        if hasattr(leaf, "dtype")
        else np.asarray(leaf)
        for path, leaf in leaves
    }


def _why_not(path: str, base: Any, post: Any) -> str:
    """Why a leaf is not compared; empty if it is."""
    if base is None or post is None:
        return f"only in {'base' if post is None else 'post'}"
    if base.shape != post.shape:
        return f"shapes differ: {list(base.shape)} in base, {list(post.shape)} in post"
    # Kernels of convolutions have four dimensions too.
    if base.ndim not in (2, 3) and not (base.ndim == 4 and "expert" in path.lower()):
        return f"not a matrix: shape {list(base.shape)}"
    if 0 in base.shape:
        return "empty"
    if np.dtype(base.dtype) not in FLOATS or np.dtype(post.dtype) not in FLOATS:
        return f"not floating point: {base.dtype} in base, {post.dtype} in post"
    return "embedding" if re.search(r"(^|/)embedding(/value)?$", path) else ""


def _projections(leaves: Mapping[str, Any]) -> list[Projection]:
    """Projections of leaves by path: a stack is one, and so are matrices of numbered layers.

    The tensors of a stack are named ``path[layer]``, of experts ``path[layer,expert]``.
    """
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    experts: dict[str, int] = {}
    for path, leaf in leaves.items():
        name, shape = path, tuple(leaf.shape)
        while (short := _LEAF.sub("", name)) != name:
            name = short
        if leaf.ndim > 2:
            places = itertools.product(*map(range, shape[:-2]))
            tensors = [f"{path}[{','.join(map(str, place))}]" for place in places]
            experts |= {tensors[0]: shape[1]} if leaf.ndim == 4 else {}
        else:
            name, tensors = _LAYER.sub("*", name, count=1), [path]
        groups.setdefault((name, shape[-2:]), []).extend(tensors)
    names = [name for name, _ in groups]
    projections = []
    for (name, (rows, columns)), tensors in groups.items():
        if names.count(name) > 1:
            name = f"{name} {rows}x{columns}"
        tensors.sort(key=lambda path: [int(number) for number in re.findall(r"\d+", path)])
        numbers = tuple(range(experts.get(tensors[0], 0)))
        projections.append(
            Projection(name, "", (rows, columns), tuple(tensors), transposed=False, experts=numbers)
        )
    return projections


def _matrices(leaves: Mapping[str, Any], projections: list[Projection]) -> Any:
    """Yields the tensors of projections by name, as views of the leaves."""
    for projection in projections:
        for tensor in projection.tensors:
            path, _, place = tensor.partition("[")
            if tensor in leaves:
                yield tensor, leaves[tensor]
            else:
                yield tensor, _Matrix(leaves[path], tuple(map(int, place[:-1].split(","))))


class _Matrix:
    """One matrix of a stack [L, I, O] or [L, E, I, O], taken out of it when it is read."""

    def __init__(self, stack: Any, place: tuple[int, ...]):
        self._stack, self._place = stack, place
        self.shape, self.dtype = stack.shape[len(place) :], stack.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._stack[self._place], dtype=dtype)
