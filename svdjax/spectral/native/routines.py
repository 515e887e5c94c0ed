"""Products and symmetric eigenproblems by BLAS and LAPACK, on arrays in place, without the lock.

The routines are those that scipy offers to Cython, and that jax takes for its own. Their arrays are
column-major, ours are row-major: what they are given reads as its transpose there.

Axis legend: `N` order of a symmetric matrix, `K` reflectors taken together, `M` rows turned.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy

_REFLECTORS = 128
"""Taken together where eigenvectors are turned back. LAPACK takes 32, in products so thin that
they reach half of BLAS's rate."""

_BLOCK = 256
"""Of a symmetric matrix that is filled in from its other triangle."""

_KINDS = {"char *": "c", "int *": "i", "float *": "s", "double *": "d"}


def _of_scipy(name: str) -> Any:
    """A module of scipy.linalg, without the package, which takes 0.3 s, if that is not loaded."""
    full = f"scipy.linalg.{name}"
    if "scipy.linalg" not in sys.modules:
        folders = [f"{folder}/linalg" for folder in scipy.__path__]
        spec = importlib.machinery.PathFinder.find_spec(full, folders)
        if spec is not None and spec.loader is not None:
            try:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
            except ImportError:
                pass
            finally:
                # Found there, it would not become an attribute of the package once that is loaded.
                sys.modules.pop(full, None)
    return importlib.import_module(full)


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


_blas, _lapack = _of_scipy("cython_blas"), _of_scipy("cython_lapack")
_gemm = {t: _routine(_blas, f"{t}gemm", f"cciii{t}{t}i{t}i{t}{t}i") for t in "sd"}
_syrk = {t: _routine(_blas, f"{t}syrk", f"ccii{t}{t}i{t}{t}i") for t in "sd"}
_dtrsm = _routine(_blas, "dtrsm", "cccciiddidi")
_dsytrd = _routine(_lapack, "dsytrd", "cididdddii")
_dstedc = _routine(_lapack, "dstedc", "cidddidiiii")
_dsterf = _routine(_lapack, "dsterf", "iddi")


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


def gram(a: np.ndarray, out: np.ndarray, *, turn: str = "n", keep: float = 0.0) -> None:
    """The upper triangle of ``a a^T + keep out``, into out; with t as `turn` of ``a^T a``."""
    order, inner = a.shape if turn == "n" else a.shape[::-1]
    there = "t" if turn == "n" else "n"
    _syrk[_kind(a)]("L", there, order, inner, 1.0, a, _stride(a), keep, out, _stride(out))


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

    By the steps of LAPACK's dsyevd: tridiagonal form, divide and conquer, and the vectors turned
    back, here by more reflectors at a time. What it does for matrices near the limits of the
    numbers is left out: entries are expected between 1e-140 and 1e140, or 0.

    Args:
      matrix: its upper triangle is read; it is overwritten.
      values: to be filled.
      vectors: likewise.

    Raises:
      numpy.linalg.LinAlgError: NaN or Inf is among the entries, or LAPACK gives up.
    """
    order = len(matrix)
    work = np.empty(1 + 4 * order + order**2)
    beside, factors = _tridiagonal(matrix, values, work)
    integers, info = np.empty(3 + 5 * order, np.intc), ctypes.c_int(0)
    _dstedc(
        *("I", order, values, beside, vectors, order),
        *(work, len(work), integers, len(integers), info),
    )
    _check(info, "dstedc", order)
    _turn_back(matrix, factors, vectors)


def eigvalsh(matrix: np.ndarray, values: np.ndarray) -> None:
    """The eigenvalues alone; arguments and errors are those of `eigh`."""
    order, info = len(matrix), ctypes.c_int(0)
    beside, _ = _tridiagonal(matrix, values, np.empty(64 * order))
    _dsterf(order, values, beside, info)
    _check(info, "dsterf", order)


def _tridiagonal(
    matrix: np.ndarray, diagonal: np.ndarray, work: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Overwrites a matrix with reflectors and fills in the diagonal of the tridiagonal form.

    Returns:
      What is beside the diagonal [N - 1], and the factors of the reflectors [N - 1].
    """
    beside, factors = np.zeros((2, max(len(matrix) - 1, 1)))
    info = ctypes.c_int(0)
    order = len(matrix)
    _dsytrd("L", order, matrix, order, diagonal, beside, factors, work, len(work), info)
    _check(info, "dsytrd", order)
    if not (np.all(np.isfinite(diagonal)) and np.all(np.isfinite(beside))):
        # What follows would come to some end, and say nothing.
        raise np.linalg.LinAlgError(f"dsytrd of order {order}: entries that are not finite")
    return beside, factors


def _check(info: ctypes.c_int, name: str, order: int) -> None:
    if info.value < 0:
        raise ValueError(f"{name} of order {order}: argument {-info.value}")
    if info.value > 0:
        raise np.linalg.LinAlgError(f"{name} of order {order}: info {info.value}")


def _turn_back(matrix: np.ndarray, factors: np.ndarray, vectors: np.ndarray) -> None:
    """Multiplies vectors, rows of [N, N], by H_1 H_2 ... as dsytrd left them.

    ``H_j = I - f_j y_j y_j^T``, y_j in row j from column j + 1 on, where it starts with a 1 that is
    not stored. Of K of them the product is ``I - Y T Y^T`` with the triangle
    ``T^-1 = diag(1 / f) + striu(Y^T Y)``.
    """
    order, count = len(matrix), len(matrix) - 1
    room = np.empty((order, _REFLECTORS))
    for start in reversed(range(0, count, _REFLECTORS)):
        stop = min(start + _REFLECTORS, count)
        y, f = np.triu(matrix[start:stop, start + 1 :]), factors[start:stop]
        np.fill_diagonal(y, 1)
        y[f == 0] = 0  # H = I, whatever f is taken for
        triangle = np.zeros((len(f), len(f)))
        gram(y, triangle)
        np.fill_diagonal(triangle, 1 / np.where(f == 0, 1, f))
        part, seen = vectors[:, start + 1 :], room[:, : len(f)]
        product(part, y, seen, turn="nt")
        _dtrsm(
            *("L", "L", "T", "N", len(f), order, 1.0),
            *(triangle, len(f), seen, _stride(seen)),
        )
        product(seen, y, part, scale=-1.0, keep=1.0)
