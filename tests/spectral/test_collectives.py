"""Kernels on eight devices: each works on its own layers, and no device talks to another."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.sweep.harness import environment

PROGRAM = """
import os, re
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
import jax, numpy as np
from svdjax.spectral import (
    analyse_stack, build_stack, components, construct_stack, control_stack, factor_stack, lift,
    null_signs, prepare_stack, values_stack, working_precision,
)
mesh = jax.make_mesh((8,), ("layers",))
compiled = {}

def program(self, stacks, *, mesh, padded=False, **options):
    layers = jax.tree.leaves(stacks)[0].shape[0]
    stacks, mesh = lift.shard_stack(stacks, mesh)
    lowered = self.program.lower(stacks, mesh=mesh, **options).compile()
    compiled.setdefault(self.__name__, []).append(lowered.as_text())
    results = self.program(stacks, mesh=mesh, **options)
    for field in jax.tree.leaves(results):
        shards = {shard.data.shape[0] for shard in field.addressable_shards}
        assert shards == {field.shape[0] // 8}, (self.__name__, field.shape, shards)
    return results if padded else lift.trimmed(results, layers)

lift.Lifted.__call__ = program
rng = np.random.default_rng(0)
LAYERS = 28
square, long = (rng.standard_normal((2, LAYERS, *shape)) for shape in ((12, 12), (24, 8)))
with working_precision("svd_f64"):
    analyse_stack(*square, factorisation="svd_f64", measure="all", mesh=mesh)
    analyse_stack(*long, factorisation="gram_f64", measure="fits", mesh=mesh)
    prepare_stack(long[0], mesh=mesh)
    base, post = square
    factors = [factor_stack(w, mesh=mesh) for w in (base, post)]
    for field in jax.tree.leaves(factors):
        assert isinstance(field, np.ndarray) and len(field) == LAYERS
    values_stack(base, mesh=mesh)
    construct_stack(post, base, name="eq11", mesh=mesh)
    build_stack(post, factors[1], factors[0], base, name="eq10", mesh=mesh)
    components.split_stack(base, start=1, rank=2, mesh=mesh)
    seeds = np.zeros((LAYERS, 2), np.uint32)
    control_stack(post, base, np.ones(LAYERS), seeds, name="noise", dtype="float32", mesh=mesh)
    null_signs.framed_change(*long, np.ones(LAYERS), mesh=mesh)
for name, texts in compiled.items():
    for text in texts:
        found = re.findall(r"all-gather|all-reduce|collective-permute|all-to-all", text)
        print(name, len(texts), len(found))
"""


def test_no_kernel_communicates_where_layers_do_not_divide():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    counts = re.findall(r"(\w+) \d+ (\d+)", done.stdout)
    assert {name for name, _ in counts} >= {"_analyse", "_prepare", "_factor", "_construct"}
    assert all(count == "0" for _, count in counts), done.stdout
