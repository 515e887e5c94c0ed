"""What the formats of quantised matrices share: codes and scales beside one another in a file.

Values are ``(code - zero) * scale`` in float32, rounded once to the dtype that the reference
implementation gives: so do the libraries that wrote the files, as far as float32 holds the products
of their narrow numbers.

Axes: `O` out, `I` in, `G` groups of columns that share a scale.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import ml_dtypes
import numpy as np

from svdjax.checkpoint.formats import DTYPES, FLOATS, Precision
from svdjax.checkpoint.quantised.settings import Settings
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.safetensors_file import TensorSpec
from svdjax.errors import InputError

BF16, F16, F32 = (DTYPES[code] for code in ("BF16", "F16", "F32"))
UNIFORM = 1 / math.sqrt(12)
"""Root mean square of an error that is uniform within a spacing of 1."""
_ELEMENTS = 1 << 22  # of a strip that is worked on in float32


class Parts:
    """Tensors of a file that make up one matrix, by their roles.

    Attributes:
        name: Name of the matrix.
        names: Names of the tensors, by role.
    """

    def __init__(self, source: Checkpoint, name: str, names: Mapping[str, str]):
        self.source, self.name, self.names = source, name, names
        self._specs: dict[str, TensorSpec] = {}

    def __contains__(self, role: str) -> bool:
        return role in self.names

    def spec(self, role: str) -> TensorSpec:
        """Header of a part."""
        if role not in self._specs:
            self._specs[role] = self.source.spec(self.names[role])
        return self._specs[role]

    def read(self, role: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        """Part as stored, or its rows."""
        return self.source.read(self.names[role], rows)

    def check(
        self, role: str, dtypes: Sequence[np.dtype] | frozenset[np.dtype], axes: Sequence[int] = ()
    ) -> tuple[int, ...]:
        """Shape of a part; raises `InputError` where its dtype or number of axes is another."""
        spec = self.spec(role)
        if spec.dtype not in dtypes:
            kinds = " or ".join(sorted(str(dtype) for dtype in dtypes))
            raise self.fault(role, f"is {spec.dtype}, expected {kinds}")
        if axes and len(spec.shape) not in axes:
            raise self.fault(role, f"has shape {spec.shape}, expected {axes[0]} axes")
        if 0 in spec.shape:
            raise self.fault(role, f"has shape {spec.shape}, expected values")
        return spec.shape

    def expect(self, role: str, shape: tuple[int, ...], why: str) -> None:
        """Raises `InputError` where a part has another shape."""
        found = self.spec(role).shape
        if found != shape:
            raise self.fault(role, f"has shape {found}, expected {shape}: {why}")

    def fault(self, role: str, text: str) -> InputError:
        """Error of a part."""
        name = self.names[role]
        return InputError(f"{self.source.where(name)}: tensor {name} {text}")


class PackedTensor(abc.ABC):
    """Matrix, or stack of them, that is kept as codes and scales.

    Attributes:
        label: Name of the format, for readers of the results.
        main: Role of the part with the codes: the matrix counts as lying where this lies.
        shape: Shape of the matrix.
        dtype: Dtype that it is read in.
    """

    label: str
    main: ClassVar[str]
    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(self, parts: Parts, settings: Settings):
        """Checks the parts against one another, from their headers.

        Raises:
            InputError: A part is missing, or of another shape or dtype than the format says.
        """
        self.parts, self.settings = parts, settings

    @abc.abstractmethod
    def blocks(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yields rows [start, stop) strip by strip, float32."""

    @abc.abstractmethod
    def precision(self, start: int, stop: int) -> Precision:
        """What the codes round of rows [start, stop), from their format and scales."""

    def read(self, rows: tuple[int, int] | None = None) -> np.ndarray:
        """The matrix, or its rows [start, stop), as a new array of `dtype`."""
        start, stop = self.range(rows)
        values = np.empty((stop - start, *self.shape[1:]), self.dtype)
        at = 0
        # Callers count NaN and Inf, and name the tensor.
        with np.errstate(over="ignore", invalid="ignore"):
            for block in self.blocks(start, stop):
                values[at : at + len(block)] = block
                at += len(block)
        return values

    def range(self, rows: tuple[int, int] | None) -> tuple[int, int]:
        """Rows as first one and one past the last."""
        start, stop, _ = slice(*(rows or (None,))).indices(self.shape[0])
        return start, max(start, stop)

    def strips(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Runs of rows that are worked on at a time."""
        rows = max(_ELEMENTS // math.prod(self.shape[1:]), 1)
        for first in range(start, stop, rows):
            yield first, min(first + rows, stop)


def unpack(words: np.ndarray, bits: int) -> np.ndarray:
    """Codes of `bits` bits that follow each other from the lowest bit of the first word on.

    Args:
        words: Integers, the last axis packed.
        bits: 2, 3, 4 or 8.

    Returns:
        Uint8, the last axis longer.
    """
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets
    count, width = (8, bits) if bits == 3 else (8 // bits, 1)
    groups = octets.reshape(*octets.shape[:-1], -1, width)
    wide = (
        groups[..., 0]
        if width == 1
        else sum(groups[..., byte].astype(np.uint32) << (8 * byte) for byte in range(width))
    )
    codes = np.empty((*groups.shape[:-1], count), np.uint8)
    for place in range(count):
        codes[..., place] = (wide >> (bits * place)) & ((1 << bits) - 1)
    return codes.reshape(*octets.shape[:-1], -1)


def pair_table(values: np.ndarray, *, low_first: bool) -> np.ndarray:
    """Pairs of values that a byte of two codes of 4 bits stands for, [256, 2]."""
    octets = np.arange(256)
    low, high = values[octets & 0xF], values[octets >> 4]
    return np.stack((low, high) if low_first else (high, low), axis=-1).astype(np.float32)


def look_up(pairs: np.ndarray, octets: np.ndarray) -> np.ndarray:
    """Values of the codes in bytes, float32, the last axis twice as long."""
    # Both numbers of a pair at once.
    return pairs.view(np.uint64)[:, 0][np.ascontiguousarray(octets)].view(np.float32)


def rescale(
    values: np.ndarray,
    scales: np.ndarray,
    zeros: np.ndarray | None,
    size: int,
    groups: np.ndarray | None = None,
) -> None:
    """Makes ``(values - zeros) * scales`` of rows [N, I], in place.

    Args:
        values: The codes, float32.
        scales: One for each group of columns, [N or 1, G].
        zeros: Alike; None for 0.
        size: Columns of a group, which follow each other.
        groups: Group of each column, where they do not, [I].
    """
    width, count = values.shape[1], scales.shape[1]
    if count > 1 and groups is None and width == count * size:
        values = values.reshape(len(values), count, size)
        scales, zeros = scales[..., None], None if zeros is None else zeros[..., None]
    elif count > 1:
        index = np.arange(width) // size if groups is None else groups
        scales, zeros = scales[:, index], None if zeros is None else zeros[:, index]
    if zeros is not None:
        values -= zeros
    values *= scales


def group_size(width: int, groups: int, declared: Sequence[int]) -> int:
    """Columns that share a scale; 0 where no size makes so many groups.

    Args:
        width: Number of columns.
        groups: Number of scales for them.
        declared: Sizes that config.json names.
    """
    sizes = [size for size in declared if size > 0] + [-(-width // groups)]
    return next((size for size in sizes if -(-width // size) == groups), 0)


def scale_dtype(stored: np.dtype, settings: Settings) -> np.dtype:
    """Dtype of products with a scale: that of 16-bit scales, else the model's."""
    return stored if stored in FLOATS and stored.itemsize == 2 else settings.dtype


def powers(octets: np.ndarray) -> np.ndarray:
    """Powers of two that E8M0 bytes stand for, float32: 2^(byte - 127), NaN for 255."""
    return octets.view(ml_dtypes.float8_e8m0fnu).astype(np.float32)
