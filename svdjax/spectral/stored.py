"""Matrices of 16-bit floats on their way to a device, as bits.

XLA on CPU computes nothing in such floats, not even slices: it converts whole matrices first, and
keeps them; and it copies a matrix to see its floats as bits. Bits that come as such are neither
converted nor copied.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@functools.partial(jax.tree_util.register_dataclass, data_fields=["bits"], meta_fields=["dtype"])
@dataclasses.dataclass(frozen=True)
class RawFloats:
    """Floats of 16 bits as the bits that they are stored as.

    Attributes:
        bits: Uint16.
        dtype: Of the floats.
    """

    bits: Any
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the floats."""
        return self.bits.shape


Stored = jax.Array | np.ndarray | RawFloats
"""A matrix, or a stack of them, in its storage dtype."""


def to_raw(floats: Any) -> Any:
    """An array on the host, or a `jax.ShapeDtypeStruct`, 16-bit floats as `RawFloats`."""
    if not _is_narrow(floats.dtype):
        return floats
    if isinstance(floats, jax.ShapeDtypeStruct):
        return RawFloats(floats.update(dtype=np.dtype("uint16")), np.dtype(floats.dtype))
    return RawFloats(floats.view(np.uint16), floats.dtype)


def bits_of(floats: Stored) -> jax.Array | np.ndarray:
    """The bits of 16-bit floats, within a program; all else as it is."""
    if isinstance(floats, RawFloats):
        return floats.bits
    if _is_narrow(floats.dtype):
        return jax.lax.bitcast_convert_type(floats, jnp.uint16)
    return floats


def to_floats(stored: Stored, dtype: np.dtype | None = None) -> jax.Array:
    """An array of the floats; of bits alone `dtype` says which."""
    if isinstance(stored, RawFloats):
        return to_floats(stored.bits, stored.dtype)
    if dtype is not None and dtype != stored.dtype:
        return jax.lax.bitcast_convert_type(stored, dtype)
    return jnp.asarray(stored)


def _is_narrow(dtype: Any) -> bool:
    return dtype.itemsize == 2 and jnp.issubdtype(dtype, jnp.floating)
