"""Changes that an adapter makes to a tensor: factors, magnitudes, trained rows, the whole of it.

Axes: `O` rows of the tensor, `I` its columns, `K` rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# Rows that are merged at a time. Blocks start at multiples of it, so that a tensor has the same
# values whichever of its rows are read: a product's last bit depends on its shape.
ROWS = 1024

Read = Callable[[str, tuple[int, int] | None], np.ndarray]


@dataclass(frozen=True)
class Product:
    """Two factors of the change of a matrix, scaling * (B A).

    Attributes:
        a: Name of A, [K, in].
        b: Name of B, [out, K].
        scaling: alpha / r, or alpha / sqrt(r).
        turned: Whether the tensor is stored as [in, out].
        embedding: Whether PEFT takes the layer for an embedding: it rounds the product to the
            tensor's dtype before it adds it.
    """

    a: str
    b: str
    scaling: float
    turned: bool = False
    embedding: bool = False


@dataclass(frozen=True)
class TensorChange:
    """Change of one tensor, as PEFT's merge makes it: in the order of the attributes.

    Attributes:
        whole: Tensor of the adapter that takes its place; empty for the base's own.
        product: Factors that are added.
        magnitude: DoRA's lengths of the outputs' weights, [out], of W + scaling * (B A).
        tokens: Tensor of the rows that take the place of others.
        indices: Numbers of these.
    """

    whole: str = ""
    product: Product | None = None
    magnitude: str = ""
    tokens: str = ""
    indices: tuple[int, ...] = ()


class ChangedTensor:
    """A tensor with its change, computed block by block as it is read.

    Products are float32 (float64 where the tensor is), the sum is rounded once, to the tensor's
    dtype.
    """

    def __init__(
        self,
        change: TensorChange,
        shape: tuple[int, ...],
        dtype: np.dtype,
        base: Callable[[tuple[int, int]], np.ndarray],
        adapter: Read,
    ):
        """Reads nothing yet.

        Args:
            change: What is changed.
            shape: Shape of the result.
            dtype: Dtype of the result.
            base: Reads rows of the base's tensor.
            adapter: Reads a tensor of the adapter, or rows of it.
        """
        self.change, self.shape, self.dtype = change, shape, dtype
        self._base, self._adapter = base, adapter
        self._wide = np.dtype(np.float64 if dtype.itemsize == 8 else np.float32)
        self._lengths: np.ndarray | None = None

    def read(self, rows: tuple[int, int] | None = None) -> np.ndarray:
        """The tensor, or its rows [start, stop); beside them one block is held in memory."""
        start, stop = (0, self.shape[0]) if rows is None else rows
        stop = min(stop, self.shape[0])
        # Callers count NaN and Inf, and name the tensor.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.change.product is None:
                merged = self._start(start, max(start, stop))
            else:
                merged = self._merged(start, max(start, stop), self.change.product)
            return self._with_tokens(merged, start)

    def _start(self, first: int, last: int) -> np.ndarray:
        """Rows before anything is added, in the tensor's dtype."""
        if self.change.whole:
            return self._adapter(self.change.whole, (first, last)).astype(self.dtype, copy=False)
        return self._base((first, last))

    def _merged(self, start: int, stop: int, product: Product) -> np.ndarray:
        a, b = (self._factor(name) for name in (product.a, product.b))
        left, right = (a.T, b.T) if product.turned else (b, a)
        lengths = factors = None
        if self.change.magnitude:
            factors = self._factor(self.change.magnitude)
            if product.turned:
                if self._lengths is None:
                    self._lengths = self._column_lengths(left, right, product)
                factors = factors / self._lengths
        merged = np.empty((stop - start, self.shape[1]), self.dtype)
        for first in range(start - start % ROWS, stop, ROWS):
            last = min(first + ROWS, self.shape[0])
            block = self._sum(first, last, left, right, product)
            if factors is not None:
                if product.turned:
                    block *= factors
                else:
                    lengths = _lengths(np.square(block, dtype=np.float64).sum(1), self._wide)
                    block *= (factors[first:last] / lengths)[:, None]
            begin, end = max(first, start), min(last, stop)
            merged[begin - start : end - start] = block[begin - first : end - first]
        return merged

    def _sum(
        self, first: int, last: int, left: np.ndarray, right: np.ndarray, product: Product
    ) -> np.ndarray:
        """W + scaling * (B A), rows [first, last), in the wider dtype."""
        block = self._start(first, last).astype(self._wide)
        delta = (left[first:last] @ right) * np.float32(product.scaling)
        if product.embedding and not self.change.magnitude:
            delta = delta.astype(self.dtype)
        block += delta
        return block

    def _column_lengths(self, left: np.ndarray, right: np.ndarray, product: Product) -> np.ndarray:
        """Lengths of the columns, of all rows."""
        squares = np.zeros(self.shape[1])
        for first in range(0, self.shape[0], ROWS):
            last = min(first + ROWS, self.shape[0])
            block = self._sum(first, last, left, right, product)
            squares += np.square(block, dtype=np.float64).sum(0)
        return _lengths(squares, self._wide)

    def _with_tokens(self, merged: np.ndarray, start: int) -> np.ndarray:
        """Rows with those of trained tokens in their places."""
        places = [
            (index - start, number)
            for number, index in enumerate(self.change.indices)
            if 0 <= index - start < len(merged)
        ]
        if places:
            values = self._adapter(self.change.tokens, None).astype(self.dtype)
            rows, numbers = (list(each) for each in zip(*places))
            merged[rows] = values[numbers]
        return merged

    def _factor(self, name: str) -> np.ndarray:
        """A factor as PEFT holds it, float32."""
        return self._adapter(name, None).astype(np.float32, copy=False)


def _lengths(squares: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Lengths from sums of squares; float64 sums, for torch's own order of summing is not known."""
    return np.sqrt(squares).astype(dtype)
