"""Measures scipy's BLAS and LAPACK, as our programs call them on CPU, against XLA's own.

    python tools/benchmark_native.py
    python tools/benchmark_native.py --order=3584 --length=18944

Every device (a core each, by default) does the same at the same time, in float64, both ways in
turns. Prints one JSON object: median seconds of each way and their ratio, for what a comparison
consists of: both Gram matrices and the cross product of two long matrices, a product of square
matrices, and a symmetric eigenproblem with and without vectors.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
from absl import flags

from svdjax import cli
from svdjax.engine.process import prepare_process

_ORDER = flags.DEFINE_integer("order", 1536, "Short side of the matrices.", 1)
_LENGTH = flags.DEFINE_integer("length", 8960, "Long side.", 1)
_RUNS = flags.DEFINE_integer("runs", 5, "Turns of each; the median counts.", 1)


def main() -> str:
    """Measures, prints JSON."""
    prepare_process()
    # jax settles its devices when it is loaded.
    import jax
    from benchmark_shared import machine

    from svdjax.spectral import products
    from svdjax.spectral.lift import AXIS, map_layers, shard_stack
    from svdjax.spectral.native import calls

    jax.config.update("jax_enable_x64", True)
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    layers, order = mesh.size, _ORDER.value
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((layers, order, _LENGTH.value), np.float32)
    square = rng.standard_normal((layers, order, order))
    symmetric = square @ square.swapaxes(1, 2)
    work: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
        "long_products": (lambda a, b: products.all_of(a, b, "float64"), (rows, rows[:, ::-1])),
        "square_product": (products.matmul, (square, symmetric)),
        "eigh": (products.eigh, (symmetric,)),
        "eigvalsh": (products.eigvalsh, (symmetric,)),
    }
    found: dict[str, Any] = {"order": order, "length": _LENGTH.value, "native": calls.available()}
    for name, (one, stacks) in work.items():
        shipped, over = shard_stack(stacks, mesh)
        ways = {}
        for way, available in (("native", calls.available), ("xla", lambda: False)):
            program = jax.jit(
                functools.partial(map_layers, lambda given, one=one: one(*given), mesh=over)
            )
            with mock.patch.object(calls, "available", available):
                jax.block_until_ready(program(shipped))  # traces and compiles
            ways[way] = functools.partial(program, shipped)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(_RUNS.value):
            for way, program in ways.items():
                start = time.perf_counter()
                jax.block_until_ready(program())
                seconds[way].append(time.perf_counter() - start)
        middle = {way: statistics.median(each) for way, each in seconds.items()}
        found[name] = {way: round(each, 3) for way, each in middle.items()}
        found[name]["ratio"] = round(middle["xla"] / middle["native"], 2)
    return json.dumps(found | machine(), indent=2)


if __name__ == "__main__":
    cli.run(main)
