"""Kernels on two devices: each works on its own layers, and neither talks to the other."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
import pytest

from svdjax.spectral import (
    analyse_stack,
    build_stack,
    components,
    construct_stack,
    control_stack,
    factor_stack,
    lift,
    null_signs,
    prepare_stack,
    values_stack,
    working_precision,
)

LAYERS = 27
"""Layers of a stack: two devices do not divide them."""


def test_no_kernel_communicates_where_layers_do_not_divide(monkeypatch: pytest.MonkeyPatch):
    programs: list[tuple[str, str]] = []

    def compiled(self: Any, stacks: Any, *, mesh: Any, padded: bool = False, **options: Any):
        layers = jax.tree.leaves(stacks)[0].shape[0]
        stacks, mesh = lift.shard_stack(stacks, mesh)
        program = self.program.lower(stacks, mesh=mesh, **options).compile()
        programs.append((self.__name__, program.as_text() or ""))
        results = program(stacks)
        for field in jax.tree.leaves(results):
            shards = {shard.data.shape[0] for shard in field.addressable_shards}
            assert shards == {field.shape[0] // 2}, (self.__name__, field.shape, shards)
        return results if padded else lift.trimmed(results, layers)

    monkeypatch.setattr(lift.Lifted, "__call__", compiled)
    mesh = jax.make_mesh((2,), ("layers",))
    rng = np.random.default_rng(0)
    square, long = (rng.standard_normal((2, LAYERS, *shape)) for shape in ((12, 12), (24, 8)))
    with working_precision("svd_f64"):
        analyse_stack(*square, factorisation="svd_f64", measure="all", mesh=mesh)
        analyse_stack(*long, factorisation="gram_f64", measure="fits", mesh=mesh)
        prepare_stack(long[0], mesh=mesh)
        base, post = square
        factors = [factor_stack(w, mesh=mesh) for w in (base, post)]
        for field in jax.tree.leaves(factors):
            assert isinstance(field, np.ndarray)
            assert len(field) == LAYERS
        values_stack(base, mesh=mesh)
        construct_stack(post, base, name="eq11", mesh=mesh)
        build_stack(post, factors[1], factors[0], base, name="eq10", mesh=mesh)
        components.split_stack(base, start=1, rank=2, mesh=mesh)
        seeds = np.zeros((LAYERS, 2), np.uint32)
        control_stack(post, base, np.ones(LAYERS), seeds, name="noise", dtype="float32", mesh=mesh)
        null_signs.framed_change(long[0], long[1], np.ones(LAYERS), mesh=mesh)
    assert {name for name, _ in programs} >= {"_analyse", "_prepare", "_factor", "_construct"}
    for name, text in programs:
        assert "ENTRY" in text, name
        talks = re.findall(r"all-gather|all-reduce|collective-permute|all-to-all", text)
        assert not talks, (name, talks)
