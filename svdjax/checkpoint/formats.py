"""Number formats that can be read, and what they round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

from svdjax.errors import InputError

# By their names in the safetensors format; no others can be read.
DTYPES: Mapping[str, np.dtype] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "I32": np.dtype(np.int32),
    "I64": np.dtype(np.int64),
    "U8": np.dtype(np.uint8),
    "U16": np.dtype(np.uint16),
    "U32": np.dtype(np.uint32),
    "U64": np.dtype(np.uint64),
    "BOOL": np.dtype(np.bool_),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
}
CODES: Mapping[np.dtype, str] = {dtype: code for code, dtype in DTYPES.items()}
FLOATS = frozenset(DTYPES[code] for code in ("BF16", "F16", "F32", "F64"))
FP8 = frozenset(DTYPES[code] for code in ("F8_E4M3", "F8_E5M2"))
"""Codes of quantised matrices: read as numbers together with their scales only."""

# Masks of the exponent: where all its bits are set, a float is NaN or Inf.
_EXPONENTS: Mapping[np.dtype, int] = {
    DTYPES["BF16"]: 0x7F80,
    DTYPES["F16"]: 0x7C00,
    DTYPES["F32"]: 0x7F800000,
    DTYPES["F64"]: 0x7FF0000000000000,
}


def readable_dtype(code: str, tensor: str, where: str) -> np.dtype:
    """Numpy dtype of a safetensors code.

    Raises:
        InputError: The format is one that cannot be read, such as fp4.
    """
    if code not in DTYPES:
        raise InputError(
            f"{where}: tensor {tensor} is {code}, which cannot be read; expected one of "
            f"{', '.join(DTYPES)}"
        )
    return DTYPES[code]


class Precision(NamedTuple):
    """What storing a tensor rounds of it.

    Attributes:
        eps: Distance from 1 to the next number of the format: errors that grow with the entries.
        step: Root mean square of the errors of codes that are spaced by scales, whatever the
            entries; 0 where there are none.
    """

    eps: float
    step: float = 0.0


def precision_of(dtype: np.dtype) -> Precision:
    """Precision of floats as they are."""
    return Precision(float(ml_dtypes.finfo(dtype).eps))


def count_nonfinite(array: np.ndarray) -> tuple[int, int]:
    """Numbers of NaN and of Inf in an array of floats.

    Counted in the bits, a few million at a time where there are any: no second array of the same
    size.
    """
    mask = _EXPONENTS[array.dtype]
    bits = np.dtype(f"u{array.dtype.itemsize}")
    flat = array.reshape(-1).view(bits)
    if _is_finite(flat, mask):
        return 0, 0
    exponent, mantissa = bits.type(mask), bits.type((mask & -mask) - 1)
    nans = infs = 0
    for start in range(0, flat.size, 1 << 22):
        chunk = flat[start : start + (1 << 22)]
        fractions = chunk[(chunk & exponent) == exponent] & mantissa
        infs += int(np.count_nonzero(fractions == 0))
        nans += int(np.count_nonzero(fractions))
    return nans, infs


def _is_finite(bits: np.ndarray, mask: int) -> bool:
    """Whether no float has all bits of its exponent set, which are those of `mask`.

    Positive ones would be the largest signed integers, negative ones the largest unsigned: two
    maxima tell, without a temporary and without Python's lock.
    """
    sign = 1 << (8 * bits.itemsize - 1)
    signed = bits.view(f"i{bits.itemsize}")
    return int(signed.max(initial=0)) < mask and int(bits.max(initial=0)) < sign | mask
