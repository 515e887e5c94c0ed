"""Numbers of a page, packed: arrays in 8 or 16 bits, scalars with six digits, gzip, base64."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

BINS = 512
"""Longest curve that is kept whole; longer ones are averaged to so many bins."""


class Blob:
    """Arrays of a page one after the other, each with its type, shape, offset and scale."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self.index: list[dict[str, Any]] = []
        self._size = 0

    def add(self, values: Any, kind: str = "u2", low: float = math.nan, high: float = math.nan):
        """Adds an array; returns the reference to it. What is not finite becomes missing.

        Args:
            values: The array.
            kind: ``u2`` or ``u1``: evenly between `low` and `high`, by default those of the array;
                ``i2``: log2 in steps of 1/8192; ``i1``: between -1 and 1.
            low: Least value.
            high: Greatest value.
        """
        array = np.asarray(values, np.float64)
        finite = np.isfinite(array)
        if kind[0] == "i":
            steps, missing, low = (8192, -32768, 0.0) if kind == "i2" else (127, -128, 0.0)
            scale, bottom, top = 1 / steps, -steps * 4 + 1 if kind == "i2" else -127, 127
            top = 32767 if kind == "i2" else top
        else:
            missing = 65535 if kind == "u2" else 255
            if math.isnan(low):
                low = float(array[finite].min()) if finite.any() else 0.0
            if math.isnan(high):
                high = float(array[finite].max()) if finite.any() else 1.0
            bottom, top = 0, missing - 1
            scale = (high - low) / top or 1.0
        steps_of = np.round((np.where(finite, array, low) - low) / scale)
        stored = np.where(finite, np.clip(steps_of, bottom, top), missing).astype(f"<{kind}")
        raw = stored.tobytes()
        entry = {"t": kind, "s": list(array.shape), "o": self._size, "k": scale, "b": low}
        self.index.append(entry)
        self._parts.append(raw + b"\0" * (-len(raw) % 8))
        self._size += len(self._parts[-1])
        return {"$": len(self.index) - 1}

    def pack(self) -> str:
        """All arrays."""
        return packed(b"".join(self._parts))

    def plain(self, value: Any) -> Any:
        """JSON's form of nested data: matrices in the blob, numbers with six digits, NaN as null.

        Raises:
            TypeError: It holds something else.
        """
        if isinstance(value, np.ndarray) and value.ndim > 1:
            return self.add(value)
        if isinstance(value, np.ndarray):
            return [_number(x) for x in value.tolist()]
        if isinstance(value, Mapping):
            return {str(key): self.plain(item) for key, item in value.items()}
        if isinstance(value, str):
            # Lone surrogates can come in with a tensor's name; they have no UTF-8.
            return value.encode("utf-8", "replace").decode()
        if isinstance(value, Sequence):
            return [self.plain(item) for item in value]
        return _number(value.item() if isinstance(value, np.generic) else value)


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if value is None or isinstance(value, int | str):
        return value
    raise TypeError(f"{type(value).__name__} cannot be put on a page")


def binned(values: np.ndarray) -> np.ndarray:
    """Curves [..., R] averaged to at most `BINS` bins."""
    rank = values.shape[-1]
    if rank <= BINS:
        return values
    edges = np.linspace(0, rank, BINS + 1).round().astype(int)
    return np.add.reduceat(values, edges[:-1], axis=-1) / np.diff(edges)


def packed_json(value: Any) -> str:
    """JSON, packed."""
    return packed(json.dumps(value, separators=(",", ":"), allow_nan=False).encode())


def packed(data: bytes) -> str:
    """Gzip and base64 of bytes; the same for the same bytes."""
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode("ascii")
