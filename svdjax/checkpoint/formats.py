"""Number formats that can be read, and the marks of quantised checkpoints."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

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
}
CODES: Mapping[np.dtype, str] = {dtype: code for code, dtype in DTYPES.items()}
FLOATS = frozenset(DTYPES[code] for code in ("BF16", "F16", "F32", "F64"))

# Masks of the exponent: where all its bits are set, a float is NaN or Inf.
_EXPONENTS: Mapping[np.dtype, int] = {
    DTYPES["BF16"]: 0x7F80,
    DTYPES["F16"]: 0x7C00,
    DTYPES["F32"]: 0x7F800000,
    DTYPES["F64"]: 0x7FF0000000000000,
}
_QUANTISED_NAMES = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|absmax|nested_absmax|quant_map|nested_quant_map|SCB|"
    r"weight_format|weight_scale|weight_scale_inv|weight_packed|weight_shape|weight_zero_point|"
    r"input_scale|quant_state\.[\w.]+|weight\.(absmax|quant_map|quant_state\.[\w.]+))$"
)
_ADVICE = "analyse the bf16, f16 or f32 checkpoint it was made from, or dequantise it first"


def left_over(config: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """Notes on what a config.json says of quantising weights that are floating point."""
    return tuple(
        f"{where}: {key} says that the weights are quantised, and every matrix is floating point: "
        "they are read as they are"
        for key in ("quantization_config", "compression_config")
        if config.get(key)
    )


def refuse_quantised_config(config: Mapping[str, Any], where: str) -> None:
    """Refuses a config.json that declares a quantised checkpoint.

    Raises:
        InputError: It declares one; the message names the method.
    """
    for key in ("quantization_config", "compression_config"):
        declared = config.get(key)
        if declared:
            method = declared.get("quant_method") if isinstance(declared, dict) else declared
            raise InputError(
                f"{where}: {key} says the weights are quantised ({method or 'unnamed method'}); "
                f"{_ADVICE}"
            )


def refuse_quantised_names(names: Iterable[str], where: str) -> None:
    """Refuses tensor names that only GPTQ, AWQ, bitsandbytes and fp8 checkpoints have.

    Raises:
        InputError: There are such names; the message names the first.
    """
    matches = sorted(name for name in names if _QUANTISED_NAMES.search(name))
    if matches:
        raise InputError(
            f"{where}: tensors such as {matches[0]} ({len(matches)} of them) belong to a quantised "
            f"checkpoint (GPTQ, AWQ, bitsandbytes or fp8); {_ADVICE}"
        )


def readable_dtype(code: str, tensor: str, where: str) -> np.dtype:
    """Numpy dtype of a safetensors code.

    Raises:
        InputError: The format is one that cannot be read, such as fp8.
    """
    if code not in DTYPES:
        kind = "quantised to fp8 or less" if code.startswith(("F8", "F6", "F4")) else "unreadable"
        raise InputError(
            f"{where}: tensor {tensor} is {code} ({kind}); expected BF16, F16 or F32; {_ADVICE}"
        )
    return DTYPES[code]


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
