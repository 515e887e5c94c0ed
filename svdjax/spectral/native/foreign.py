"""Functions of ours called from within compiled programs: XLA's foreign function interface.

XLA promises that its C interface stays compatible: a handler says for which version it was made,
and one that is too old, or too new, is refused when it is registered. The structures below are
those of version 0.3 (`xla/ffi/api/c_api.h`, within jaxlib). Each starts with its size and a
pointer to extensions.

A handler here is a Python function. It needs the interpreter's lock wherever it is not within a
routine that does without, and may wait for it while another thread is busy in Python: so what it
calls should be long, like a routine of BLAS.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

_VERSION = (0, 3)
_METADATA, _EXECUTE = 1, 3  # of its enumerations
_EXHAUSTED, _INTERNAL = 8, 13  # of its status codes
_DTYPES = {11: np.dtype("float32"), 12: np.dtype("float64")}

Handler = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], None]
"""Arrays that were given, and those to be filled; both live as long as the call."""

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
        ("given", _Buffers),
        ("wanted", _Buffers),
    ]


_ENTRY = ctypes.CFUNCTYPE(_pointer, ctypes.POINTER(_Frame))
_CREATE_ERROR = ctypes.CFUNCTYPE(_pointer, ctypes.POINTER(_ErrorArguments))
_registered: dict[str, Any] = {}  # XLA keeps addresses only


def register(name: str, handler: Handler) -> None:
    """Makes a handler known to XLA on CPU under a name; `jax.ffi.ffi_call` then calls it.

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
                handler(frame.given.arrays(), frame.wanted.arrays())
        except BaseException as error:  # must not reach C
            code = _EXHAUSTED if isinstance(error, MemoryError) else _INTERNAL
            message = f"{name}: {type(error).__name__}: {error}"
            return _failure(pointer.contents, code, message.encode("utf-8", "backslashreplace"))
        return None

    # Before its devices are there, XLA would put off refusing a handler, and then refuse to start.
    jax.local_devices(backend="cpu")
    function = _ENTRY(entry)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(function), platform="cpu")
    _registered[name] = function


def _failure(frame: _Frame, code: int, message: bytes) -> int | None:
    given = _ErrorArguments(ctypes.sizeof(_ErrorArguments), None, message, code)
    return _CREATE_ERROR(frame.interface.contents.error_create)(ctypes.byref(given))
