"""Products and symmetric eigenproblems by BLAS and LAPACK, on arrays in place, without the lock.

The routines are those that scipy offers to Cython, and that jax takes for its own. Their arrays are
column-major, ours are row-major: what they are given reads as its transpose there.

Axis legend: `N` order of a symmetric matrix, `K` reflectors taken together, `M` rows turned.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.linalg.cython_blas as blas
import scipy.linalg.cython_lapack as lapack

_REFLECTORS = 256
"""Taken together where eigenvectors are turned back. LAPACK takes 32, in products so thin that
they reach half of BLAS's rate."""

_BLOCK = 256
"""Of a symmetric matrix that is filled in from its other triangle."""

_KINDS = {"char *": "c", "int *": "i", "float *": "s", "double *": "d"}


class ConvergenceError(RuntimeError):
    """An eigenproblem was not solved."""


def _routine(module: Any, name: str, kinds: str) -> Callable[..., None]:
    """A routine of which every argument is an address.

    Args:
      module: of scipy.
      name: of the routine.
      kinds: of its arguments: c character, i 32-bit integer, s float, d double.

    Raises:
      RuntimeError: it has other arguments here, such as 64-bit integers.
    """
    capsule = module.__pyx_capi__[name]
    signature = _NAME(capsule)
    declared = re.sub(r"\w+_([sd]) \*", r"\1", signature.decode())
    for text, kind in _KINDS.items():
        declared = declared.replace(text, kind)
    if declared != f"void ({', '.join(kinds)})":
        raise RuntimeError(f"{name} of scipy: expected {kinds}, found {signature.decode()}")
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(kinds))(_POINTER(capsule, signature))

    def routine(*arguments: Any) -> None:
        call(*(_address(kind, value) for kind, value in zip(kinds, arguments, strict=True)))

    return routine


_NAME = ctypes.pythonapi.PyCapsule_GetName
_NAME.restype, _NAME.argtypes = ctypes.c_char_p, [ctypes.py_object]
_POINTER = ctypes.pythonapi.PyCapsule_GetPointer
_POINTER.restype, _POINTER.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_SCALARS = {"i": ctypes.c_int, "s": ctypes.c_float, "d": ctypes.c_double}


def _address(kind: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if kind == "c":
        return ctypes.c_char_p(value.encode())
    return ctypes.byref(value if isinstance(value, ctypes.c_int) else _SCALARS[kind](value))


_gemm = {kind: _routine(blas, f"{kind}gemm", f"cciii{kind}{kind}i{kind}i{kind}{kind}i") for kind in "sd"}
_syrk = {kind: _routine(blas, f"{kind}syrk", f"ccii{kind}{kind}i{kind}{kind}i") for kind in "sd"}
_dtrsm = _routine(blas, "dtrsm", "cccciiddidi")
_dsytrd = _routine(lapack, "dsytrd", "cididdddii")
_dstedc = _routine(lapack, "dstedc", "cidddidiiii")


def _stride(a: np.ndarray) -> int:
    """Entries from one row [M, N] to the next; along a row they follow each other."""
    return a.strides[0] // a.itemsize


def product(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray,
    *,
    turn: str = "nn",
    scale: float = 1.0,
    keep: float = 0.0,
) -> None:
    """``out = scale a b + keep out``, float32 or float64; with t in `turn`, of a^T or b^T."""
    inner = a.shape[0] if turn[0] == "t" else a.shape[1]
    rows, columns = out.shape
    _gemm[_kind(a)](
        *(turn[1], turn[0], columns, rows, inner, scale),
        *(b, _stride(b), a, _stride(a), keep, out, _stride(out)),
    )


def gram(a: np.ndarray, out: np.ndarray, *, turn: str = "n") -> None:
    """The upper triangle of ``out = a a^T``, float32 or float64; with t as `turn` of ``a^T a``."""
    order, inner = a.shape if turn == "n" else a.shape[::-1]
    there = "t" if turn == "n" else "n"
    _syrk[_kind(a)]("L", there, order, inner, 1.0, a, _stride(a), 0.0, out, _stride(out))


def mirror(out: np.ndarray) -> None:
    """Fills in the lower triangle [N, N] from the upper one."""
    order = len(out)
    for start in range(0, order, _BLOCK):
        stop = min(start + _BLOCK, order)
        out[start:stop, :start] = out[:start, start:stop].T
        corner = out[start:stop, start:stop]
        corner[:] = np.triu(corner) + np.triu(corner, 1).T


def _kind(a: np.ndarray) -> str:
    return "s" if a.dtype == np.float32 else "d"


def eigh(matrix: np.ndarray, values: np.ndarray, vectors: np.ndarray) -> None:
    """Eigenvalues [N], ascending, and eigenvectors as the rows of [N, N], of a symmetric float64.

    LAPACK's dsyevd, but for the last step: tridiagonal form, divide and conquer, and the vectors
    turned back by more reflectors at a time.

    Args:
      matrix: its upper triangle is read; it is overwritten.
      values: to be filled.
      vectors: likewise.

    Raises:
      ConvergenceError: LAPACK gives up; NaN among its entries make it.
    """
    order = len(matrix)
    beside, factors = np.zeros(max(order - 1, 1)), np.zeros(max(order - 1, 1))
    info = ctypes.c_int(0)
    work = np.empty(1 + 4 * order + order * order)
    _dsytrd(*("L", order, matrix, order, values, beside, factors, work, len(work), info))
    integers = np.empty(3 + 5 * order, np.int32)
    _dstedc(
        *("I", order, values, beside, vectors, order, work, len(work), integers, len(integers)),
        info,
    )
    if info.value:
        raise ConvergenceError(f"dstedc: info {info.value} for order {order}")
    _turn_back(matrix, factors, vectors)


def _turn_back(matrix: np.ndarray, factors: np.ndarray, vectors: np.ndarray) -> None:
    """``vectors = vectors Q^T`` for Q = H_1 H_2 ..., H_j = I - factor_j y_j y_j^T, as dsytrd left it.

    Of K of them, ``Q = I - Y T Y^T`` with ``T^-1 = striu(Y^T Y) + diag(1 / factors)``.
    """
    order = len(matrix)
    count = order - 1
    held = np.empty((order, _REFLECTORS))
    for start in reversed(range(0, count, _REFLECTORS)):
        stop = min(start + _REFLECTORS, count)
        reflectors = np.triu(matrix[start:stop, start + 1 :])
        np.fill_diagonal(reflectors, 1)
        live = factors[start:stop] != 0
        reflectors[~live] = 0
        inverse = np.zeros((stop - start, stop - start))
        gram(reflectors, inverse)
        inverse = np.triu(inverse, 1)
        np.fill_diagonal(inverse, np.where(live, 1 / np.where(live, factors[start:stop], 1), 1))
        part, seen = vectors[:, start + 1 :], held[:, : stop - start]
        product(part, reflectors, seen, turn="nt")
        # seen = seen T^T, by the triangle that is T^-T
        _dtrsm(*("L", "l", "t", "n", stop - start, order, 1.0), *(inverse, stop - start, seen, _stride(seen)))
        product(seen, reflectors, part, scale=-1.0, keep=1.0)
