"""bitsandbytes: nf4 and fp4 (QLoRA's formats), and int8 with a scale a row.

Four bits are indices into a map of 16 values, two a byte, the high one first, over the flattened
matrix; blocks of 64 of them share ``absmax``. Where that is nested, it is bytes itself, with a map
of 256 values, scales of blocks of 256, and an offset. Shapes and sizes are JSON in a tensor of
bytes. Products are in float32, rounded once, as the CUDA kernels do.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np

from svdjax.checkpoint import small_json
from svdjax.checkpoint.formats import DTYPES, FLOATS, Precision
from svdjax.checkpoint.quantised.packed import (
    F16,
    F32,
    UNIFORM,
    PackedTensor,
    Parts,
    look_up,
    pair_table,
)
from svdjax.checkpoint.quantised.settings import Settings

_U8, _INT8 = DTYPES["U8"], DTYPES["I8"]
_DTYPES = {"bfloat16": DTYPES["BF16"], "float16": F16, "float32": F32}
_MOST_STATE = 1 << 16
_MOST_SIDE = 1 << 32
_INVERSE_127 = np.float32(7.874015718698502e-3)


class Bnb4Tensor(PackedTensor):
    """Matrix in nf4 or fp4; see `PackedTensor`."""

    main: ClassVar[str] = "codes"

    def __init__(self, parts: Parts, settings: Settings):
        """See `PackedTensor`."""
        super().__init__(parts, settings)
        stored = parts.check("codes", FLOATS | {_U8, _INT8})
        state = self._read_state()
        what = f"{parts.source.where(parts.names['state'])}: {parts.names['state']}"
        self.label = small_json.text(state.get("quant_type"), f"{what}: quant_type")
        if self.label not in ("nf4", "fp4"):
            raise parts.fault("state", f"has the quant_type {self.label!r}, expected nf4 or fp4")
        kind = small_json.text(state.get("dtype"), f"{what}: dtype")
        if kind not in _DTYPES:
            raise parts.fault("state", f"has the dtype {kind!r}, expected {', '.join(_DTYPES)}")
        self.dtype = _DTYPES[kind]
        shape = state.get("shape")
        if not isinstance(shape, list) or not 1 <= len(shape) <= 3:
            raise parts.fault("state", f"has the shape {small_json.shown(shape)}")
        self.shape = tuple(small_json.whole(n, f"{what}: shape", 1, _MOST_SIDE) for n in shape)
        self._size = small_json.whole(state.get("blocksize"), f"{what}: blocksize", 1, 1 << 16)
        if self._size % 2:
            raise parts.fault("state", f"has the blocksize {self._size}, expected an even one")
        count = math.prod(self.shape)
        octets = math.prod(stored) * parts.spec("codes").dtype.itemsize
        if octets < -(-count // 2) or octets > -(-count // 2) + 8:
            raise parts.fault(
                "codes", f"has {octets} bytes, expected two codes of {self.shape} each"
            )
        self._count = -(-count // self._size)
        parts.check("map", (F32,))
        parts.expect("map", (16,), "a value for each code")
        self._nested = "nested_absmax" in parts
        self._offset = np.float32(0)
        if self._nested:
            self._check_nested(state, what)
        else:
            parts.check("absmax", (F32,))
            parts.expect("absmax", (self._count,), "one for each block")

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See `PackedTensor.blocks`."""
        pairs = pair_table(self.parts.read("map"), low_first=False)
        absmax, size, width = self._absmax(), self._size, math.prod(self.shape[1:])
        for first, last in self.strips(start, stop):
            begin, end = first * width, last * width
            block, after = begin // size, -(-end // size)
            octets = self._octets(block * size // 2, -(-end // 2))
            # The last block may be cut off.
            filled = np.zeros((after - block) * size // 2, np.uint8)
            filled[: len(octets)] = octets
            values = look_up(pairs, filled).reshape(-1, size)
            values *= absmax[block:after, None]
            strip = values.reshape(-1)[begin - block * size : end - block * size]
            yield strip.reshape(last - first, *self.shape[1:])

    def precision(self, start: int, stop: int) -> Precision:
        """See `PackedTensor.precision`.

        Codes are taken to be equally frequent, which nf4's are of normal numbers: an entry of a
        code is off by up to half the way to the next ones.
        """
        values = np.unique(self.parts.read("map").astype(np.float64))
        middles = (values[1:] + values[:-1]) / 2
        widths = np.diff(np.concatenate([values[:1], middles, values[-1:]]))
        width = math.prod(self.shape[1:])
        first, last = start * width // self._size, -(-stop * width // self._size)
        absmax = self._absmax()[first:last].astype(np.float64)
        step = math.sqrt(np.mean(widths**2) * np.mean(absmax**2))
        return Precision(0.0, UNIFORM * float(step))

    def _octets(self, first: int, last: int) -> np.ndarray:
        """Bytes [first, last) of the codes."""
        spec = self.parts.spec("codes")
        size = spec.dtype.itemsize
        if spec.shape == (spec.shape[0], 1):
            begin, end = first // size, -(-last // size)
            octets = self.parts.read("codes", (begin, end)).reshape(-1).view(np.uint8)
            return octets[first - begin * size : last - begin * size]
        return self.parts.read("codes").reshape(-1).view(np.uint8)[first:last]

    def _absmax(self) -> np.ndarray:
        """Largest magnitudes of the blocks, float32."""
        absmax = self.parts.read("absmax")
        if not self._nested:
            return absmax
        scales = np.repeat(self.parts.read("nested_absmax"), self._nested_size)[: len(absmax)]
        return self.parts.read("nested_map")[absmax] * scales + self._offset

    def _check_nested(self, state: dict[str, Any], what: str) -> None:
        parts = self.parts
        offset = small_json.number(state.get("nested_offset"), f"{what}: nested_offset")
        self._offset = np.float32(offset)
        size = small_json.whole(
            state.get("nested_blocksize"), f"{what}: nested_blocksize", 1, 1 << 20
        )
        self._nested_size = size
        parts.check("absmax", (_U8,))
        parts.expect("absmax", (self._count,), "one for each block")
        parts.check("nested_absmax", (F32,))
        parts.expect("nested_absmax", (-(-self._count // size),), "one for each of its blocks")
        if "nested_map" not in parts:
            raise parts.fault("absmax", "has no nested_quant_map beside it")
        parts.check("nested_map", (F32,))
        parts.expect("nested_map", (256,), "a value for each byte")

    def _read_state(self) -> dict[str, Any]:
        """JSON of shapes and sizes."""
        (length,) = self.parts.check("state", (_U8,), (1,))
        if length > _MOST_STATE:
            raise self.parts.fault("state", f"has {length} bytes, expected a short JSON object")
        name = self.parts.names["state"]
        where = f"{self.parts.source.where(name)}: {name}"
        return small_json.bounded(
            small_json.parse_object(self.parts.read("state").tobytes(), where), where
        )


class Bnb8Tensor(PackedTensor):
    """Matrix in int8, rows scaled to their largest magnitude; see `PackedTensor`."""

    main: ClassVar[str] = "codes"
    label = "bitsandbytes int8"

    def __init__(self, parts: Parts, settings: Settings):
        """See `PackedTensor`."""
        super().__init__(parts, settings)
        self.shape = parts.check("codes", (_INT8,), (2,))
        parts.check("absmax", (F32,))
        parts.expect("absmax", (self.shape[0],), "one for each row")
        self.dtype = settings.dtype
        if "layout" in parts:
            parts.check("layout", (_U8,))
            if parts.spec("layout").shape not in ((), (1,)) or parts.read("layout").any():
                raise parts.fault("layout", "names a layout for one kind of GPU, expected rows (0)")

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See `PackedTensor.blocks`."""
        absmax = self.parts.read("absmax")
        for first, last in self.strips(start, stop):
            values = self.parts.read("codes", (first, last)).astype(np.float32)
            values *= absmax[first:last, None]
            values *= _INVERSE_127
            yield values

    def precision(self, start: int, stop: int) -> Precision:
        """See `PackedTensor.precision`."""
        steps = self.parts.read("absmax")[start:stop].astype(np.float64) / 127
        return Precision(0.0, UNIFORM * float(np.sqrt(np.mean(steps**2))))
