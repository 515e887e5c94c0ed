"""Quantised releases, read as the floats that they stand for; one module a family of formats."""

from __future__ import annotations

from svdjax.checkpoint.quantised.view import DequantisedCheckpoint, dequantised

__all__ = ["DequantisedCheckpoint", "dequantised"]
