"""Measures scipy's BLAS and LAPACK, as our programs call them on CPU, against XLA's own routines.

    python tools/benchmark_blas.py
    python tools/benchmark_blas.py --order=3584 --length=18944

Every device (a core each, by default) does the same at the same time, in float64, both ways in
turns. Prints one JSON object: median seconds of each way and their ratio, for what a comparison
consists of: both Gram matrices and the cross product of two long matrices, a product of square
matrices, and the eigenvalues of a symmetric one.
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

    from svdjax.spectral import blas, matmul
    from svdjax.spectral.lift import AXIS, map_layers, shard_stack

    jax.config.update("jax_enable_x64", True)
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    layers, order = mesh.size, _ORDER.value
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((layers, order, _LENGTH.value), np.float32)
    square = rng.standard_normal((layers, order, order))
    work: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
        "gram": (lambda a: matmul.gram_of(a, "float64"), (rows,)),
        "cross": (lambda a, b: matmul.cross_of(a, b, "float64"), (rows, rows[:, ::-1])),
        "square_product": (matmul.matmul, (square, square)),
        "eigenvalues": (matmul.eigvalsh, (square + square.swapaxes(1, 2),)),
    }
    result: dict[str, Any] = {"order": order, "length": _LENGTH.value, "blas": blas.available()}
    for name, (function, stacks) in work.items():
        shipped, over = shard_stack(stacks, mesh)
        ways = {}
        for way, available in (("blas", blas.available), ("xla", lambda: False)):
            program = jax.jit(
                functools.partial(map_layers, lambda parts, f=function: f(*parts), mesh=over)
            )
            with mock.patch.object(blas, "available", available):
                jax.block_until_ready(program(shipped))  # traces and compiles
            ways[way] = functools.partial(program, shipped)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(_RUNS.value):
            for way, program in ways.items():
                start = time.perf_counter()
                jax.block_until_ready(program())
                seconds[way].append(time.perf_counter() - start)
        median = {way: statistics.median(each) for way, each in seconds.items()}
        result[name] = {way: round(each, 3) for way, each in median.items()}
        result[name]["ratio"] = round(median["xla"] / median["blas"], 2)
    return json.dumps(result | machine(), indent=2)


if __name__ == "__main__":
    cli.run(main)
