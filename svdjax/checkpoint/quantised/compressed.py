"""compressed-tensors' pack-quantized: signed numbers of 2, 4 or 8 bits in words of 32 along rows.

``weight_packed`` [O, words] has them plus 2^(bits - 1), from the lowest bits on; ``weight_shape``
says where a row ends in its last word. Scales are of the whole, of rows or of groups of columns;
zeros, where there are any, are packed along O, or plain int8.

Axes: `O` out, `I` in, `G` groups of columns that share a scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from svdjax.checkpoint.formats import DTYPES, FLOATS, Precision
from svdjax.checkpoint.quantised.packed import (
    UNIFORM,
    PackedTensor,
    Parts,
    group_size,
    rescale,
    scale_dtype,
    unpack,
)
from svdjax.checkpoint.quantised.settings import Settings

_I32, _INT8 = DTYPES["I32"], DTYPES["I8"]
_WHOLE = (_I32, DTYPES["I64"])


class CompressedTensor(PackedTensor):
    """Matrix as pack-quantized has it; see `PackedTensor`."""

    main: ClassVar[str] = "codes"

    def __init__(self, parts: Parts, settings: Settings):
        """See `PackedTensor`."""
        super().__init__(parts, settings)
        rows, words = parts.check("codes", (_I32,), (2,))
        parts.check("shape", _WHOLE, (1,))
        parts.expect("shape", (2,), "rows and columns")
        sides = [int(side) for side in parts.read("shape")]
        width = sides[1]
        bits = [n for n in (2, 4, 8) if -(-width // (32 // n)) == words]
        if sides[0] != rows or width < 1 or not bits:
            raise parts.fault(
                "shape", f"says {sides}, which is not that of {rows} rows of {words} words"
            )
        self._bits = bits[-1]
        self.shape = (rows, width)
        self.label = f"int{self._bits}"
        shape = parts.check("scale", FLOATS)
        self.dtype = scale_dtype(parts.spec("scale").dtype, settings)
        self._grid = (1, 1) if shape in ((), (1,)) else shape if len(shape) == 2 else (*shape, 1)
        self._size = group_size(width, self._grid[-1], settings.groups)
        if len(self._grid) != 2 or self._grid[0] not in (1, rows) or not self._size:
            raise parts.fault("scale", f"has shape {shape} for a matrix of shape {self.shape}")
        if "groups" in parts:
            parts.check("groups", _WHOLE, (1,))
            parts.expect("groups", (width,), "the group of each column")
        self._check_zeros()

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See `PackedTensor.blocks`."""
        scales, zeros, groups = self._scales(), self._zeros(), self._groups()
        for first, last in self.strips(start, stop):
            codes = unpack(self.parts.read("codes", (first, last)), self._bits)
            values = codes[:, : self.shape[1]].astype(np.float32)
            values -= 1 << (self._bits - 1)
            rows = slice(first, last) if len(scales) > 1 else slice(0, 1)
            zero = None if zeros is None else zeros[rows]
            rescale(values, scales[rows], zero, self._size, groups)
            yield values

    def precision(self, start: int, stop: int) -> Precision:
        """See `PackedTensor.precision`."""
        scales = self._scales().astype(np.float64)
        squares = np.mean((scales[start:stop] if len(scales) > 1 else scales) ** 2, axis=0)
        index = self._groups()
        index = np.arange(self.shape[1]) // self._size if index is None else index
        return Precision(0.0, UNIFORM * float(np.sqrt(np.mean(squares[index]))))

    def _scales(self) -> np.ndarray:
        """Scales [O or 1, G], float32."""
        return self.parts.read("scale").astype(np.float32).reshape(self._grid)

    def _groups(self) -> np.ndarray | None:
        """Group of each column, [I]; None where they follow each other."""
        groups = self.parts.read("groups") if "groups" in self.parts else None
        if groups is None or (groups == -1).all():
            return None
        if groups.min() < 0 or groups.max() >= self._grid[1]:
            raise self.parts.fault(
                "groups",
                f"names the groups {groups.min()} to {groups.max()}, expected 0 to "
                f"{self._grid[1] - 1}",
            )
        return groups.astype(np.int64)

    def _check_zeros(self) -> None:
        if "zero" not in self.parts:
            return
        self.parts.check("zero", (_I32, _INT8))
        if self.parts.spec("zero").dtype == _INT8:
            self.parts.expect("zero", self.parts.spec("scale").shape, "that of the scales")
        else:
            words = -(-self._grid[0] // (32 // self._bits))
            self.parts.expect("zero", (words, self._grid[1]), "packed along the rows")

    def _zeros(self) -> np.ndarray | None:
        """Zeros [O or 1, G], float32; None where there are none."""
        if "zero" not in self.parts:
            return None
        zeros = self.parts.read("zero")
        if zeros.dtype == _INT8:
            return zeros.astype(np.float32).reshape(self._grid)
        codes = unpack(zeros.T, self._bits).T[: self._grid[0]]
        return codes.astype(np.float32) - (1 << (self._bits - 1))
