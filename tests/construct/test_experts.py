"""What is constructed of experts reaches the decoder's parameters."""

from __future__ import annotations

import pathlib
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from svdjax.checkpoint import load_params, model_config, open_checkpoint, plan_pair, read_stack
from svdjax.construct.tree import replaced_leaves
from svdjax.construct.variant_builder import store
from svdjax.engine.groups import plan_groups
from svdjax.errors import InputError
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
