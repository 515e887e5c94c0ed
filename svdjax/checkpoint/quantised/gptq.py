"""GPTQ and AWQ: whole numbers of 2, 3, 4 or 8 bits in words of 32, with scales and zeros of groups.

Both have ``qweight``, ``qzeros`` and ``scales`` [G, O], and matrices [I, O]. GPTQ packs along I
(and its zeros along O), with the group of each input in ``g_idx`` where the order of quantisation
was another; its first format stores zeros less 1. AWQ packs along O, in the order in which its
kernels take numbers out of a word.

Axes: `O` out, `I` in, `G` groups of I that share a scale.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from svdjax.checkpoint.formats import DTYPES, Precision
from svdjax.checkpoint.quantised.packed import (
    BF16,
    F16,
    F32,
    UNIFORM,
    PackedTensor,
    Parts,
    group_size,
    rescale,
    scale_dtype,
    unpack,
)
from svdjax.checkpoint.quantised.settings import Settings
from svdjax.errors import InputError

_I32 = DTYPES["I32"]
_WORDS = (_I32, DTYPES["U32"])
_BITS = (2, 3, 4, 8)
# Where a word of AWQ has column 0, 1, ... of its eight.
_AWQ_PLACES = np.array([0, 4, 1, 5, 2, 6, 3, 7])
_GPTQ_LAYOUTS = ("", "gptq", "gptq_v2")
_AWQ_LAYOUTS = ("", "gemm", "gptq", "exllama")


def make_words(parts: Parts, settings: Settings) -> PackedTensor:
    """The tensor of ``qweight`` and what lies beside it: `GptqTensor` or `AwqTensor`, by shapes.

    Raises:
        InputError: It is neither.
    """
    words, scales = (
        parts.check("codes", _WORDS, (2,)),
        parts.check("scales", (F16, BF16, F32), (2,)),
    )
    awq = words[1] * 8 == scales[1]
    if not awq and words[1] != scales[1]:
        raise parts.fault(
            "codes", f"has shape {words}, which fits neither GPTQ nor AWQ with scales {scales}"
        )
    allowed = _AWQ_LAYOUTS if awq else _GPTQ_LAYOUTS
    if settings.layout not in allowed:
        raise InputError(
            f"{settings.where}: quantization_config says {settings.layout!r} of "
            f"{'AWQ' if awq else 'GPTQ'} weights, expected one of {', '.join(allowed[1:])}"
        )
    return (AwqTensor if awq else GptqTensor)(parts, settings)


class _Words(PackedTensor):
    """What GPTQ and AWQ share."""

    main: ClassVar[str] = "codes"

    def _set(self, width: int) -> None:
        """Notes shape and dtype for I = `width`; checks the scales, and finds the groups."""
        groups, rows = self.parts.check("scales", (F16, BF16, F32), (2,))
        self.shape = (rows, width)
        self.dtype = scale_dtype(self.parts.spec("scales").dtype, self.settings)
        self._size = group_size(width, groups, self.settings.groups)
        if not self._size:
            raise self.parts.fault("scales", f"has {groups} groups for {width} inputs")

    def _scales(self, start: int, stop: int) -> np.ndarray:
        """Scales [O, G] of some rows of the matrix [O, I], float32."""
        return self.parts.read("scales")[:, start:stop].T.astype(np.float32)

    def _groups(self) -> np.ndarray | None:
        """Group of each column, [I]; None where they follow each other."""
        return None

    def precision(self, start: int, stop: int) -> Precision:
        """See `PackedTensor.precision`."""
        squares = np.mean(self._scales(start, stop).astype(np.float64) ** 2, axis=0)
        index = self._groups()
        index = np.arange(self.shape[1]) // self._size if index is None else index
        return Precision(0.0, UNIFORM * float(np.sqrt(np.mean(squares[index]))))


class GptqTensor(_Words):
    """Matrix as GPTQ packs it; see `PackedTensor`."""

    def __init__(self, parts: Parts, settings: Settings):
        """See `PackedTensor`."""
        super().__init__(parts, settings)
        words, rows = parts.check("codes", _WORDS, (2,))
        groups, _ = parts.check("scales", (F16, BF16, F32), (2,))
        packed = parts.check("zeros", _WORDS, (2,))[1]
        self._bits, rest = divmod(32 * packed, rows)
        if rest or self._bits not in _BITS or words % (3 if self._bits == 3 else 1):
            raise parts.fault(
                "zeros", f"has {packed} columns for {rows} outputs, expected 2, 3, 4 or 8 bits each"
            )
        parts.expect("zeros", (groups, packed), "a row for each of the scales")
        self.label = f"GPTQ ({self._bits} bits)"
        self._set(32 * words // self._bits)
        if "groups" in parts:
            parts.check("groups", (_I32, DTYPES["I64"]), (1,))
            parts.expect("groups", (self.shape[1],), "the group of each input")

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See `PackedTensor.blocks`."""
        words, groups = self.parts.read("codes"), self._groups()
        scales, zeros = self._scales(start, stop), self._zeros()[start:stop]
        for first, last in self.strips(start, stop):
            values = unpack(words[:, first:last].T, self._bits).astype(np.float32)
            rows = slice(first - start, last - start)
            rescale(values, scales[rows], zeros[rows], self._size, groups)
            yield values

    def _zeros(self) -> np.ndarray:
        """Zeros [O, G], float32."""
        words = self.parts.read("zeros").view(np.uint32)
        first = self.settings.layout != "gptq_v2"
        if first and self._bits != 3:
            # To the whole word, as GPTQModel does and undoes: a zero of 0 borrows from the next.
            words = words + np.uint32(0xFFFFFFFF // ((1 << self._bits) - 1))
        zeros = unpack(words, self._bits).astype(np.float32)
        return zeros.T + (1 if first and self._bits == 3 else 0)

    def _groups(self) -> np.ndarray | None:
        """See `_Words`."""
        if "groups" not in self.parts:
            return None
        groups, count = self.parts.read("groups"), self.parts.spec("scales").shape[0]
        if np.array_equal(groups, np.arange(len(groups)) // self._size):
            return None
        if groups.min() < 0 or groups.max() >= count:
            raise self.parts.fault(
                "groups",
                f"names the groups {groups.min()} to {groups.max()}, expected 0 to {count - 1}",
            )
        return groups.astype(np.int64)


class AwqTensor(_Words):
    """Matrix as AWQ packs it; see `PackedTensor`."""

    label = "AWQ (4 bits)"

    def __init__(self, parts: Parts, settings: Settings):
        """See `PackedTensor`."""
        super().__init__(parts, settings)
        width, words = parts.check("codes", _WORDS, (2,))
        groups, _ = parts.check("scales", (F16, BF16, F32), (2,))
        parts.check("zeros", _WORDS, (2,))
        parts.expect("zeros", (groups, words), "as many words as the codes, a row for each scale")
        self._set(width)

    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """See `PackedTensor.blocks`."""
        words, packed_zeros = self.parts.read("codes"), self.parts.read("zeros")
        scales = self._scales(start, stop)
        for first, last in self.strips(start, stop):
            columns = slice(first // 8, -(-last // 8))
            rows = slice(first - 8 * columns.start, last - 8 * columns.start)
            values, zeros = (
                np.ascontiguousarray(_awq_codes(each[:, columns])[:, rows].T).astype(np.float32)
                for each in (words, packed_zeros)
            )
            rescale(values, scales[first - start : last - start], zeros, self._size)
            yield values


def _awq_codes(words: np.ndarray) -> np.ndarray:
    """Codes [I, O] of words [I, O / 8]."""
    codes = unpack(words, 4)
    return codes.reshape(len(codes), -1, 8)[..., _AWQ_PLACES].reshape(len(codes), -1)
