"""What is constructed of experts reaches the decoder's parameters."""

from __future__ import annotations

import pathlib
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from svdjax.checkpoint import load_params, model_config, open_checkpoint, plan_pair, read_stack
from svdjax.construct.tree import alphas, construct, leaf_at, replaced_leaves
from svdjax.construct.variant_builder import store
from svdjax.engine.groups import plan_groups
from svdjax.errors import InputError
from tests.spectral import reference
from tests.support import tiny


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_groups_of_matrices_fill_the_leaves(family: str, tmp_path: pathlib.Path) -> None:
    base = tiny.make_checkpoint(tmp_path / "base", family)
    post = tiny.perturb(
        base, tmp_path / "post", only=["_proj.weight", ".gate.", ".w1.", ".w2.", ".w3."]
    )
    plan = plan_pair(open_checkpoint(base), open_checkpoint(post))
    before, after = (load_params(side, model_config(side), None) for side in (plan.base, plan.post))
    leaves: dict[str, np.ndarray] = {}
    # A few matrices at a time: groups end amid the experts of a layer.
    for group in plan_groups("pair", plan, group_bytes=100_000, devices=1):
        built: Any = SimpleNamespace(
            w=read_stack(plan.post, group.projection, group.start, group.stop)
        )
        store(leaves, group, built)
    found = replaced_leaves(before, leaves)
    assert jax.tree.structure(found) == jax.tree.structure(after)
    jax.tree.map(np.testing.assert_array_equal, found, after)
    with pytest.raises(InputError, match="layers/mlp/up_proj/kernel: no leaf of the model"):
        replaced_leaves(before, {"layers/mlp/up_proj/kernel": leaves.popitem()[1]})


def test_trees_of_experts_are_constructed_matrix_by_matrix(tmp_path: pathlib.Path) -> None:
    base = tiny.make_checkpoint(tmp_path / "base", "qwen2_moe")
    sides = (open_checkpoint(base), open_checkpoint(tiny.perturb(base, tmp_path / "post")))
    before, after = (load_params(side, model_config(side)) for side in sides)
    path = "layers/mlp/experts/up_proj/kernel"
    new = construct(before, after, "eq11", modules="experts", layers=[1])
    old, found = leaf_at(after, path), leaf_at(new, path)
    assert found.shape == old.shape
    np.testing.assert_array_equal(found[0], old[0])
    for expert, matrix in enumerate(found[1]):
        wanted = reference.constructed("eq11", leaf_at(before, path)[1, expert], old[1, expert])
        np.testing.assert_allclose(matrix, wanted, rtol=1e-6, atol=1e-6)
    noise = construct(before, after, "eq11", modules="experts", layers=[1], control="noise")
    moves = np.asarray(leaf_at(noise, path)[1], np.float64) - old[1]
    # As far as eq. 11 goes, each expert in a direction of its own.
    distances = np.linalg.norm(np.asarray(found[1], np.float64) - old[1], axis=(1, 2))
    np.testing.assert_allclose(np.linalg.norm(moves, axis=(1, 2)), distances, rtol=1e-3)
    unit = moves.reshape(len(moves), -1) / distances[:, None]
    assert np.abs(unit @ unit.T - np.eye(len(unit))).max() < 0.2
    assert alphas(before, after, modules="experts").keys() == {
        "experts.gate_proj",
        "experts.up_proj",
        "experts.down_proj",
    }
