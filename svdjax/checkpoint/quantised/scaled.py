"""Matrices of fp8 or int8 numbers with scales of the whole, of rows, of groups or of blocks.

DeepSeek-V3, Qwen3-FP8 and the like have ``X_scale_inv`` beside ``X`` (a factor, whatever the name),
one for each block of 128 x 128; compressed-tensors, ModelOpt and FBGEMM ``X_scale``: a scalar, one
a row [O, 1], or a grid. Blocks at the end may be cut off.

Axes: `O` out, `I` in, `E` experts where there are three axes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import ml_dtypes
import numpy as np

from svdjax.checkpoint.formats import DTYPES, FLOATS, FP8, Precision
from svdjax.checkpoint.quantised.packed import (
    UNIFORM,
    PackedTensor,
    Parts,
    powers,
    rescale,
    scale_dtype,
)
from svdjax.checkpoint.quantised.settings import Settings

_INT8, _U8, _E8M0 = DTYPES["I8"], DTYPES["U8"], DTYPES["F8_E8M0"]
_SCALES = FLOATS | {_U8, _E8M0}
_USUAL = (128, 128)


class ScaledTensor(PackedTensor):
    """Codes of 8 bits that are numbers themselves, times scales; see `PackedTensor`."""

    main: ClassVar[str] = "codes"

    def __init__(self, parts: Parts, settings: Settings):
        """See `PackedTensor`."""
        super().__init__(parts, settings)
        self.shape = parts.check("codes", FP8 | {_INT8}, (2, 3))
        codes = parts.spec("codes").dtype
        self.label = "int8" if codes == _INT8 else f"fp8 ({codes.name[7:11]})"
        parts.check("scale", _SCALES)
        self._scales = parts.spec("scale").dtype
        self.dtype = scale_dtype(self._scales, settings)
        rows, columns = self.shape[-2:]
        self._grid = self._grid_shape()
        self._block = self._block_size(rows, columns)
        if "zero" in parts:
            parts.check("zero", (_INT8,))
            parts.expect("zero", parts.spec("scale").shape, "that of the scales")

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See `PackedTensor.blocks`."""
        scales = self._matrix("scale")
        zeros = self._matrix("zero") if "zero" in self.parts else None
        for first, last in self.strips(start, stop):
            values = _numbers(self.parts.read("codes", (first, last)))
            flat = values.reshape(-1, self.shape[-1])
            lines = self._lines(first, last)
            # Rows of one block are one step, rows with scales of their own too.
            cuts = np.flatnonzero(np.diff(lines)) + 1 if self._block[0] > 1 else []
            for rows in np.split(np.arange(len(flat)), cuts):
                run, line = flat[rows[0] : rows[-1] + 1], lines[rows[0] : rows[-1] + 1]
                line = line[:1] if self._block[0] > 1 else line
                zero = None if zeros is None else zeros[line]
                rescale(run, scales[line], zero, self._block[1])
            yield values

    def precision(self, start: int, stop: int) -> Precision:
        """See `PackedTensor.precision`."""
        codes = self.parts.spec("codes").dtype
        if codes != _INT8:
            return Precision(float(ml_dtypes.finfo(codes).eps))
        scales = self._matrix("scale")[self._lines(start, stop)].astype(np.float64)
        return Precision(0.0, UNIFORM * float(np.sqrt(np.mean(scales**2))))

    def _grid_shape(self) -> tuple[int, int, int]:
        """Shape of the scales: experts (1 for one matrix), rows and columns of blocks."""
        shape, experts = self.parts.spec("scale").shape, self.shape[:-2]
        if math.prod(shape) == 1:
            return 1, 1, 1
        if len(shape) == 1:
            # One a row, or one an expert.
            if experts:
                shape = (*shape, 1, 1)
            else:
                shape = (*shape, 1)
        if len(shape) != len(self.shape) or (experts and shape[0] not in (1, *experts)):
            raise self.parts.fault(
                "scale", f"has shape {shape}, expected scales of a matrix of shape {self.shape}"
            )
        return (shape[0] if experts else 1), shape[-2], shape[-1]

    def _block_size(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of a block, as config.json says or as the grid has it."""
        grid = self._grid[1:]
        even = (rows // grid[0] or 1, columns // grid[1] or 1)
        for block in (*self.settings.blocks, _USUAL, even):
            size = tuple(
                length if count == 1 else side
                for length, count, side in zip((rows, columns), grid, block)
            )
            for each in (size, (1 if grid[0] == rows else size[0], size[1])):
                if (-(-rows // each[0]), -(-columns // each[1])) == grid:
                    return each[0], each[1]
        raise self.parts.fault(
            "scale",
            f"has {grid[0]} x {grid[1]} scales, which are no blocks of a matrix of {rows} x "
            f"{columns}",
        )

    def _matrix(self, role: str) -> np.ndarray:
        """Scales or zeros of all rows of blocks, float32 [E * rows of blocks, columns of them]."""
        array = self.parts.read(role)
        array = powers(array) if array.dtype in (_U8, _E8M0) else array.astype(np.float32)
        return array.reshape(-1, self._grid[2])

    def _lines(self, start: int, stop: int) -> np.ndarray:
        """Line of the scales for each row of the matrices one after the other."""
        height = self.shape[-2] if len(self.shape) == 3 else 1
        rows = np.arange(start * height, stop * height)
        experts, rows = np.divmod(rows, height) if len(self.shape) == 3 else (0 * rows, rows)
        return (experts if self._grid[0] > 1 else 0) * self._grid[1] + rows // self._block[0]


def _numbers(codes: np.ndarray) -> np.ndarray:
    """Codes as float32; of fp8 by a table, which is quicker than ml_dtypes' conversion."""
    if codes.dtype == _INT8:
        return codes.astype(np.float32)
    table = np.arange(256, dtype=np.uint8).view(codes.dtype).astype(np.float32)
    return table[codes.view(np.uint8)]
