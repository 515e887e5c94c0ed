"""Costs: what a sweep takes, predicted from a few rates that are measured on the machine.

Axis legend: `I` in, `O` out, `R` = min(I, O), `M` = max(I, O).

The kernels of `svdjax.spectral.compare` are products and symmetric eigenproblems, so two rates of
a device say how long they take: operations a second of a float64 product, and seconds of an
eigenproblem by its size. What passes over memory otherwise is a few percent of either.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from svdjax.checkpoint import ModelConfig
from svdjax.spectral.matmul import eigh, matmul, slice_length

# Seconds where `Rates.host` is 1.
START_SECONDS = 3.0
"""Of a command before its first matrix and after its last: Python, jax, the libraries."""

LOAD_SECONDS = 0.3
"""Of a program that the cache has: tracing it, and loading what was compiled."""

COMPILE_SECONDS = 1.3
"""Of compiling a program that the cache has not, beyond those."""

_HOST_SECONDS = 0.0145
"""Of `_host_work`."""

_SYMMETRIC = 0.6
"""Share of a product's operations, where its blocks above the diagonal are computed once."""

_VALUES = 0.5
"""Share of an eigenproblem's seconds, where its values alone are wanted."""

_SVD = 3
"""Eigenproblems that an SVD of a square matrix takes as long as."""

_DECODER = 2.0
"""A decoder's operations beside products: how many times the products alone it takes."""

_STEP = 3e-4
"""Seconds of a layer in a step of decoding, however small it is."""

_CACHE_BYTES = 8e9
"""Bytes a second of a decoder's cache in float32, which each step reads and writes."""

_HOST_TURNS = 20
_EIGEN_SIZES = (256, 512, 1024, 2048)


@dataclass(frozen=True)
class Cost:
    """Operations and bytes of a comparison.

    Attributes:
        products: Floating point operations in matrix products.
        eigen: How many symmetric eigenproblems, by size.
        stored: Bytes of the matrices as stored.
        working: Bytes on a device while it is worked on.
    """

    products: float
    eigen: Mapping[int, float]
    stored: int
    working: int

    @property
    def operations(self) -> float:
        """Floating point operations in all, 9 n^3 for an eigenproblem with vectors."""
        return self.products + sum(9.0 * n**3 * count for n, count in self.eigen.items())


@functools.lru_cache(maxsize=4096)  # of many groups of few shapes
def pair_cost(
    shape: tuple[int, int],
    *,
    posts: int = 1,
    sides: int | None = None,
    itemsize: int = 2,
    measure: str = "vectors",
    gram: bool = True,
) -> Cost:
    """Cost of one base matrix [I, O] and its posts.

    Long matrices (M >= 2 R) by their Gram matrices alone; others by factors made out of them,
    with their smaller singular values worked out a second time.

    Args:
        shape: (I, O).
        posts: Comparisons.
        sides: Matrices that are read and factorised for them; a base and its posts by default,
            fewer where an earlier comparison has left some.
        itemsize: Bytes of an entry as stored.
        measure: What is asked for; ``fits`` takes both rotations and the values of one
            eigenproblem, ``all`` also polar factors, two where the matrix is not square.
        gram: Whether Gram matrices are tried; else an SVD of every matrix.
    """
    sides = posts + 1 if sides is None else sides
    r, long = min(shape), max(shape)
    whole, square = 2.0 * long * r**2, 2.0 * r**3
    eigen: dict[int, float] = collections.defaultdict(float)
    if not gram:
        products = sides * 3 * whole + posts * (whole + 2 * square)
        eigen[r] += _SVD * sides
    elif long >= 2 * r:
        products = sides * _SYMMETRIC * whole + posts * (whole + 4 * square)
        products += _SYMMETRIC * square  # the root of base
        eigen[r] += sides
    else:
        # Gram matrix, images, loss, the lower half again, its loss, the correction in float32.
        factors = (3 * _SYMMETRIC + 1.5) * whole + _SYMMETRIC * whole / 4 + square
        products = sides * factors + posts * (whole + 2 * square)
        eigen[r] += sides
        eigen[r // 2] += sides
    if measure != "vectors":
        products += posts * 4 * square
        eigen[r] += _VALUES * posts
    if measure == "all":
        polar = 1 if r == long else 2
        products += posts * polar * 3 * square
        eigen[r] += _SVD * polar * posts
    # As XLA counts the buffers of the compiled program. A long matrix that has to be factorised
    # takes 8 * 7 r M, for as long as that takes.
    if long >= 2 * r:
        working = 8 * (5 * r**2 + 2 * r * slice_length(r, long, 8))
    else:
        working = 8 * 10 * r * long
    stored = sides * itemsize * r * long
    return Cost(products, dict(eigen), stored, working)


def matrix_bytes(shape: tuple[int, int]) -> int:
    """Bytes in work for one matrix pair, the most that any measure and factorisation takes.

    In float64: both matrices, their tall factors and the copies LAPACK makes, I x O each; short
    factors, Q1, Q2 and what the fits make of them, r x r each. Measured on CPU at 1024 x 2816.
    """
    r, R = min(shape), max(shape)
    return 8 * (9 * R * r + 22 * r**2)


@dataclass(frozen=True)
class Rates:
    """Rates of a device, all devices of the machine at work.

    Attributes:
        device: Its name.
        products: Float64 operations a second in matrix products.
        eigen: Seconds of a symmetric float64 eigenproblem with vectors, by size.
        host: How many times as long Python takes as on the machine of this file's constants.
        read: Bytes a second from the file system into a process.
        transfer: Bytes a second from the host to the device.
    """

    device: str
    products: float
    eigen: Mapping[int, float]
    host: float = 1.0
    read: float = 1e9
    transfer: float = 1e10

    def seconds(self, cost: Cost) -> float:
        """Seconds of the computation."""
        return cost.products / self.products + sum(
            count * self.eigen_seconds(n) for n, count in cost.eigen.items()
        )

    def together(self, devices: int) -> Rates:
        """Rates of several such devices, layers or rows spread over them."""
        eigen = {size: seconds / devices for size, seconds in self.eigen.items()}
        return dataclasses.replace(self, products=devices * self.products, eigen=eigen)

    def read_seconds(self, parameters: float, tokens: float) -> float:
        """Seconds of a decoder that reads: 2 operations a parameter and token, in float32."""
        return _DECODER * 2.0 * parameters * tokens / (2 * self.products)

    def answer_seconds(
        self, parameters: float, config: ModelConfig, *, answers: int, tokens: float, batch: int
    ) -> float:
        """Seconds of a decoder that answers: steps for each token of a batch, over the cache.

        Args:
            parameters: Of the model.
            config: Of its decoder.
            answers: How many.
            tokens: Of an answer.
            batch: Answers that are decoded together.
        """
        layers, steps = config.num_layers, max(tokens, answers * tokens / batch)
        cache = 8.0 * layers * config.num_kv_heads * config.head_dim * batch * tokens
        step = _STEP * self.host * layers + cache / _CACHE_BYTES
        return steps * (step + self.read_seconds(parameters, batch))

    def eigen_seconds(self, n: int) -> float:
        """Seconds of one eigenproblem: by a power law between the measured sizes, by n^3 beyond."""
        sizes = sorted(self.eigen)
        if n <= sizes[0]:
            return self.eigen[sizes[0]] * (n / sizes[0]) ** 2
        if n >= sizes[-1]:
            return self.eigen[sizes[-1]] * (n / sizes[-1]) ** 3
        logs = np.log([self.eigen[size] for size in sizes])
        return float(np.exp(np.interp(math.log(n), np.log(sizes), logs)))


def measure_rates(
    sizes: Sequence[int] = _EIGEN_SIZES, product: int = 2048, turns: int = 3
) -> Rates:
    """Measures this machine's devices, all of them at once; takes some seconds.

    Args:
        sizes: Of the eigenproblems.
        product: Size of the product.
        turns: How often each is measured; the best counts.
    """
    with jax.enable_x64(True):
        devices = jax.devices()
        generator = np.random.default_rng(0)
        big = generator.standard_normal((product, product))
        multiply = jax.jit(lambda x: matmul(x, x))
        rate = 2.0 * product**3 / _together(multiply, big, devices, turns)
        solve = jax.jit(eigh)
        eigen = {}
        for size in sizes:
            root = generator.standard_normal((size, size))
            eigen[size] = _together(solve, root @ root.T, devices, turns)
        start = time.perf_counter()
        jax.block_until_ready(jax.device_put(big, devices[0]))
        transfer = big.nbytes / (time.perf_counter() - start)
    host = sum(_host_work() for _ in range(_HOST_TURNS)) / _HOST_TURNS / _HOST_SECONDS
    return Rates(devices[0].device_kind, rate, eigen, host=host, transfer=transfer)


def _host_work() -> float:
    """Seconds of a piece of plain Python."""
    start, total = time.perf_counter(), 0
    for number in range(200_000):
        total += number * number % 7
    return time.perf_counter() - start


def _together(function, value: np.ndarray, devices: Sequence[Any], turns: int) -> float:
    """Seconds of a call while every device makes the same; the best of some turns."""
    values = [jax.device_put(value, device) for device in devices]

    def call(x: jax.Array) -> None:
        with jax.enable_x64(True):  # the setting is each thread's own
            jax.block_until_ready(function(x))

    best = math.inf
    with ThreadPoolExecutor(len(devices)) as pool:
        list(pool.map(call, values))
        for _ in range(turns):
            start = time.perf_counter()
            list(pool.map(call, values))
            best = min(best, time.perf_counter() - start)
    return best
