"""Routines of scipy's BLAS and LAPACK within jitted programs on CPU, where they beat XLA.

Matrix products, and the eigenvalues of tridiagonal matrices. Two cores of an Intel Xeon, two layers
of Qwen2.5-1.5B's shapes: a sweep took 17 s, 21 s without the products, 0.4 s more without the
eigenvalues.

On other devices, for small matrices, where most cores would have nothing to do (XLA spreads one
product over all of them), where XLA has another interface than the one expected, and with
``SVDJAX_BLAS=0`` (or ``false``) in the environment, the work is left to XLA: the same numbers but
for rounding. None of it can be differentiated here.

XLA calls functions of ours by its foreign function interface, which promises to stay compatible: a
handler says for which version it was made, and one that is too old, or too new, is refused when it
is registered. The structures below are those of version 0.3 (`xla/ffi/api/c_api.h`, within jaxlib);
each starts with its size and a pointer to extensions.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LEAST = 400**3
"""Multiplications of a product; with fewer XLA is as quick."""

_LEAST_ORDER = 128
"""Order of a tridiagonal matrix; below it XLA is as quick."""

_devices: contextvars.ContextVar[int] = contextvars.ContextVar("devices", default=1)


@contextlib.contextmanager
def devices_at_work(devices: int) -> Iterator[None]:
    """What is traced within will run on so many devices of this process at once."""
    token = _devices.set(devices)
    try:
        yield
    finally:
        _devices.reset(token)


def _occupies_cores() -> bool:
    """Whether BLAS, called by each device by itself, has work for half of the cores.

    What was traced for other devices may be used again: either way gives the same numbers, but for
    rounding.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "")
    return 2 * _devices.get() * (int(threads) if threads.isdecimal() else cores) >= cores


def product(name: str, by_xla: Callable[..., jax.Array], *matrices: jax.Array) -> jax.Array:
    """A product of one or two matrices of one dtype.

    Args:
        name: ``ab``, ``atb``, ``abt``, ``aat`` or ``ata``, t for the transpose of what it follows;
            or ``add_abt``, the same added to another matrix, in place where that is possible, and
            ``add_aat``, of which only the upper triangle counts.
        by_xla: The same product of the same matrices, by XLA.
        matrices: A, or a and b; before them what is to be added to.
    """
    adds, operation = name.startswith("add_"), name.removeprefix("add_")
    a, *others = matrices[adds:]
    rows, terms = a.shape[::-1] if operation[1] == "t" else a.shape
    columns = others[0].shape[0 if operation[-1] == "t" else 1] if others else rows
    wanted = (
        all(matrix.dtype == a.dtype for matrix in matrices)
        and a.dtype in _DTYPES.values()
        and rows * terms * columns >= _LEAST
        and _occupies_cores()
    )
    if not wanted:
        return by_xla(*matrices)
    return _call(name, by_xla, matrices, (rows, columns), in_place=adds)


def tridiagonal_eigenvalues(
    by_xla: Callable[..., jax.Array], diagonal: jax.Array, off_diagonal: jax.Array
) -> jax.Array:
    """Eigenvalues [R], ascending, of a symmetric tridiagonal matrix; NaN where LAPACK gives up.

    Args:
        by_xla: The same eigenvalues of the same two arrays, by XLA.
        diagonal: Diagonal, [R].
        off_diagonal: Entries beside it, [R - 1].
    """
    if len(diagonal) < _LEAST_ORDER or diagonal.dtype not in _DTYPES.values():
        return by_xla(diagonal, off_diagonal)
    arrays = diagonal, off_diagonal
    return _call("sterf", by_xla, arrays, diagonal.shape, in_place=True)


def _call(
    name: str,
    by_xla: Callable[..., jax.Array],
    arrays: Sequence[jax.Array],
    shape: tuple[int, ...],
    *,
    in_place: bool,
) -> jax.Array:
    """Result of a routine, or of `by_xla` where there is none.

    Args:
        name: Key of `registered`.
        by_xla: The same result of the same arrays, by XLA.
        arrays: Arrays of one dtype.
        shape: Shape of the result.
        in_place: Whether the result holds the first array when the routine starts.
    """
    if not available():
        return by_xla(*arrays)

    def by_blas(*arrays: jax.Array) -> jax.Array:
        # Within shard_map the result belongs to each device by itself, as the arrays do.
        result = jax.eval_shape(lambda array: jnp.full(shape, array.ravel()[0]), arrays[0])
        call = jax.ffi.ffi_call(
            _PREFIX + name,
            result,
            vmap_method="sequential",
            input_output_aliases={0: 0} if in_place else None,
        )
        return call(*arrays)

    return jax.lax.platform_dependent(*arrays, cpu=by_blas, default=by_xla)


_PREFIX = "svdjax_"
_registering = threading.Lock()
registered: dict[str, Callable[..., None]] = {}
"""The routines by name; the last argument, ``out``, is filled."""


def available() -> bool:
    """Whether the routines are there; made known to XLA at the first call."""
    with _registering:
        return _register_all()


@functools.cache
def _register_all() -> bool:
    if os.environ.get("SVDJAX_BLAS", "").lower() in ("0", "false", "no", "off"):
        return False
    try:
        registered.update(_routines())
        for name in registered:
            _register(name)
    except Exception as error:  # of whatever kind: XLA can do without
        logging.getLogger(__name__).info("products are left to XLA: %s", error)
        return False
    return True


def _routines() -> dict[str, Callable[..., None]]:
    """The routines by name, on arrays in place.

    BLAS's arrays are column-major, ours are row-major: it sees their transposes.

    Raises:
        Exception: Scipy offers BLAS or LAPACK in another form than the one expected.
    """
    gemms = {
        kind: _routine(f"{kind}gemm", f"cciii{kind}{kind}i{kind}i{kind}{kind}i") for kind in "sd"
    }
    syrks = {kind: _routine(f"{kind}syrk", f"ccii{kind}{kind}i{kind}{kind}i") for kind in "sd"}
    sterfs = {kind: _routine(f"{kind}sterf", f"i{kind}{kind}i") for kind in "sd"}

    def gemm(a: np.ndarray, b: np.ndarray, out: np.ndarray, kept: float = 0.0) -> None:
        """``out = a b + kept out``."""
        gemms[_kind(a)](
            *(_form(b), _form(a), b.shape[1], *a.shape, 1.0),
            *(b, _stride(b), a, _stride(a), kept, out, _stride(out)),
        )

    def syrk(a: np.ndarray, out: np.ndarray, kept: float = 0.0) -> None:
        """The upper triangle of ``out = a a^T + kept out``."""
        form = "t" if _form(a) == "n" else "n"
        syrks[_kind(a)]("L", form, *a.shape, 1.0, a, _stride(a), kept, out, _stride(out))

    def symmetric(a: np.ndarray, out: np.ndarray) -> None:
        """``a a^T``."""
        syrk(a, out)
        for start in range(0, len(out), _BLOCK):
            block = slice(start, start + _BLOCK)
            out[block, :start] = out[:start, block].T
            corner = out[block, block]
            corner[:] = np.triu(corner) + np.triu(corner, 1).T

    def sterf(_: np.ndarray, off_diagonal: np.ndarray, out: np.ndarray) -> None:
        """Eigenvalues of a tridiagonal matrix, with its diagonal in ``out``."""
        info = np.zeros(1, np.intc)
        sterfs[_kind(out)](len(out), out, off_diagonal.copy(), info)
        if info[0]:
            out[:] = np.nan

    return {
        "ab": gemm,
        "atb": lambda a, b, out: gemm(a.T, b, out),
        "abt": lambda a, b, out: gemm(a, b.T, out),
        "aat": symmetric,
        "ata": lambda a, out: symmetric(a.T, out),
        "add_abt": lambda _, a, b, out: gemm(a, b.T, out, 1.0),
        "add_aat": lambda _, a, out: syrk(a, out, 1.0),
        "sterf": sterf,
    }


def _kind(a: np.ndarray) -> str:
    return "s" if a.dtype == np.float32 else "d"


def _form(a: np.ndarray) -> str:
    """Whether BLAS sees the transpose of a [M, N], which is that of no transposing, or a."""
    return "n" if a.flags.c_contiguous else "t"


def _stride(a: np.ndarray) -> int:
    """Entries from one row, or one column, to the next."""
    return max(a.strides) // a.itemsize


_BLOCK = 256
"""Of a symmetric matrix that is filled in from its other triangle."""

_KINDS = {"char *": "c", "int *": "i", "float *": "s", "double *": "d"}
_SCALARS = {"i": ctypes.c_int, "s": ctypes.c_float, "d": ctypes.c_double}


def _routine(name: str, kinds: str) -> Callable[..., None]:
    """A routine of BLAS or LAPACK that scipy offers to Cython, every argument of it an address.

    Args:
        name: Of the routine.
        kinds: Of its arguments: c character, i 32-bit integer, s float, d double.

    Raises:
        RuntimeError: It has other arguments here, such as 64-bit integers.
    """
    from scipy.linalg import cython_blas, cython_lapack  # pyright: ignore[reportAttributeAccessIssue]

    capsule = (cython_blas.__pyx_capi__ | cython_lapack.__pyx_capi__)[name]
    signature = _NAME(capsule)
    declared = re.sub(r"\w+_([sd]) \*", r"\1", signature.decode())
    for text, kind in _KINDS.items():
        declared = declared.replace(text, kind)
    if declared != f"void ({', '.join(kinds)})":
        raise RuntimeError(f"{name} of scipy: expected {kinds}, found {signature.decode()}")
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(kinds))(_POINTER(capsule, signature))

    def address(kind: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return ctypes.c_void_p(value.ctypes.data)
        if kind == "c":
            return ctypes.c_char_p(value.encode())
        return ctypes.byref(_SCALARS[kind](value))

    def routine(*arguments: Any) -> None:
        call(*(address(kind, value) for kind, value in zip(kinds, arguments, strict=True)))

    return routine


_NAME = ctypes.pythonapi.PyCapsule_GetName
_NAME.restype, _NAME.argtypes = ctypes.c_char_p, [ctypes.py_object]
_POINTER = ctypes.pythonapi.PyCapsule_GetPointer
_POINTER.restype, _POINTER.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


_VERSION = (0, 3)
_METADATA, _EXECUTE = 1, 3  # of XLA's enumerations
_EXHAUSTED, _INTERNAL = 8, 13  # of its status codes
_DTYPES = {11: np.dtype("float32"), 12: np.dtype("float64")}
_size, _pointer = ctypes.c_size_t, ctypes.c_void_p


class _Head(ctypes.Structure):
    _fields_ = [("size", _size), ("extension", _pointer)]


class _Version(_Head):
    _fields_ = [("major", ctypes.c_int), ("minor", ctypes.c_int)]


class _Buffer(_Head):
    _fields_ = [
        ("dtype", ctypes.c_int),
        ("data", _pointer),
        ("rank", ctypes.c_int64),
        ("dims", ctypes.POINTER(ctypes.c_int64)),
    ]

    def array(self) -> np.ndarray:
        """The memory itself, seen as an array."""
        dtype = _DTYPES[self.dtype]
        shape = tuple(self.dims[axis] for axis in range(self.rank))
        memory = ctypes.c_char * (int(np.prod(shape)) * dtype.itemsize)
        return np.frombuffer(memory.from_address(self.data), dtype).reshape(shape)


class _Buffers(_Head):
    _fields_ = [
        ("count", ctypes.c_int64),
        ("types", _pointer),
        ("buffers", ctypes.POINTER(ctypes.POINTER(_Buffer))),
    ]

    def arrays(self) -> list[np.ndarray]:
        """All of them; they live as long as the call."""
        return [self.buffers[number].contents.array() for number in range(self.count)]


class _ErrorArguments(_Head):
    _fields_ = [("message", ctypes.c_char_p), ("code", ctypes.c_int)]


class _Interface(_Head):
    _fields_ = [("version", _Version), ("internal", _pointer), ("error_create", _pointer)]


class _Metadata(ctypes.Structure):
    _fields_ = [("size", _size), ("version", _Version), ("traits", ctypes.c_uint32)]


class _Extension(ctypes.Structure):
    _fields_ = [
        ("size", _size),
        ("type", ctypes.c_int),
        ("next", _pointer),
        ("metadata", ctypes.POINTER(_Metadata)),
    ]


class _Frame(ctypes.Structure):
    _fields_ = [
        ("size", _size),
        ("extension", ctypes.POINTER(_Extension)),
        ("interface", ctypes.POINTER(_Interface)),
        ("context", _pointer),
        ("stage", ctypes.c_int),
        ("operands", _Buffers),
        ("results", _Buffers),
    ]


_ENTRY = ctypes.CFUNCTYPE(_pointer, ctypes.POINTER(_Frame))
_CREATE_ERROR = ctypes.CFUNCTYPE(_pointer, ctypes.POINTER(_ErrorArguments))
_entries: list[Any] = []  # XLA keeps addresses only


def _register(name: str) -> None:
    """Makes a routine known to XLA on CPU under its name with our prefix.

    It holds the interpreter's lock wherever it is not within a routine that does without, and may
    wait for it while another thread is busy in Python: so only long work is worth it.
    Whatever it raises fails the program that called it, a `MemoryError` as RESOURCE_EXHAUSTED.

    Raises:
        Exception: XLA's interface is not compatible, or not there.
    """

    def entry(pointer: Any) -> int | None:
        try:
            frame = pointer.contents
            if frame.extension and frame.extension.contents.type == _METADATA:
                version = frame.extension.contents.metadata.contents.version
                version.major, version.minor = _VERSION
            elif frame.stage == _EXECUTE:
                registered[name](*frame.operands.arrays(), out=frame.results.arrays()[0])
        except BaseException as error:  # must not reach C
            code = _EXHAUSTED if isinstance(error, MemoryError) else _INTERNAL
            message = f"{_PREFIX}{name}: {type(error).__name__}: {error}"
            return _failure(pointer.contents, code, message.encode("utf-8", "backslashreplace"))
        return None

    # Before its devices are there, XLA would put off refusing a handler, and then refuse to start.
    jax.local_devices(backend="cpu")
    handler = _ENTRY(entry)
    jax.ffi.register_ffi_target(_PREFIX + name, jax.ffi.pycapsule(handler), platform="cpu")
    _entries.append(handler)


def _failure(frame: _Frame, code: int, message: bytes) -> int | None:
    arguments = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message, code)
    return _CREATE_ERROR(frame.interface.contents.error_create)(ctypes.byref(arguments))
