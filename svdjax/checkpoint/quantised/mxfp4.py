"""MXFP4, as gpt-oss has its experts: fp4 numbers (E2M1), 32 of a row with one power of two.

``X_blocks`` [E, O, G, 16] holds two codes a byte, the low one first, ``X_scales`` [E, O, G] the
exponents + 127. X is the fused tensor [E, I, O] of the bf16 release, I = 32 G.

Axes: `E` experts, `O` out, `I` in, `G` groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import ml_dtypes
import numpy as np

from svdjax.checkpoint.formats import DTYPES, Precision
from svdjax.checkpoint.quantised.packed import (
    BF16,
    PackedTensor,
    Parts,
    look_up,
    pair_table,
    powers,
)
from svdjax.checkpoint.quantised.settings import Settings

_U8 = DTYPES["U8"]
_GROUP = 32
_VALUES = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
_PAIRS = pair_table(_VALUES, low_first=True)
_SPACING = 0.5
"""Distance of numbers between 1 and 2: E2M1 has one bit of mantissa."""


class Mxfp4Tensor(PackedTensor):
    """Experts of gpt-oss; see `PackedTensor`."""

    main: ClassVar[str] = "blocks"
    label = "MXFP4"

    def __init__(self, parts: Parts, settings: Settings):
        """See `PackedTensor`."""
        super().__init__(parts, settings)
        blocks = parts.check("blocks", (_U8,), (4, 3))
        if blocks[-1] != _GROUP // 2:
            raise parts.fault("blocks", f"has shape {blocks}, expected {_GROUP // 2} bytes a group")
        parts.check("scales", (_U8, DTYPES["F8_E8M0"]))
        parts.expect("scales", blocks[:-1], "one for each block")
        rows, width = blocks[-3], blocks[-2] * _GROUP
        # Without experts it is a matrix as others are, [O, I].
        self.shape = (blocks[0], width, rows) if len(blocks) == 4 else (rows, width)
        self.dtype = BF16

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See `PackedTensor.blocks`."""
        for first, last in self.strips(start, stop):
            values = look_up(_PAIRS, self.parts.read("blocks", (first, last)))
            values *= powers(self.parts.read("scales", (first, last)))[..., None]
            values = values.reshape(*values.shape[:-2], -1).astype(BF16)
            yield values.swapaxes(1, 2) if len(self.shape) == 3 else values

    def precision(self, start: int, stop: int) -> Precision:
        """See `PackedTensor.precision`."""
        return Precision(_SPACING)
