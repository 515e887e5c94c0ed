"""Mesh that layers are sharded over, and descriptions of devices and versions for sweep.json."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import jax
import numpy as np

import svdjax
from svdjax.errors import InputError, printable


def layer_mesh(count: int = 0, working_bytes: int = 0) -> jax.sharding.Mesh:
    """Mesh with the one axis ``layers`` over devices of this process.

    Args:
        count: Number of devices; 0 for all, but of CPU devices, which share the machine's memory,
            only as many as half of it has room for.
        working_bytes: Bytes that a device needs while it works on the largest matrix.

    Raises:
        InputError: There are fewer devices than `count`.
    """
    devices = local_devices()
    if count > len(devices):
        raise InputError(
            f"devices={count}: jax sees {len(devices)} device(s) "
            f"({devices[0].device_kind}); use 0 for all of them"
        )
    if not count:
        count = len(devices)
        if devices[0].platform == "cpu" and working_bytes:
            # The machine's whole memory, not what is free now: a resumed sweep has the same mesh.
            memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
            count = max(1, min(count, memory // 2 // working_bytes))
    return jax.make_mesh((count,), ("layers",), devices=devices[:count])


def local_devices() -> list[Any]:
    """Devices of this process.

    Raises:
        InputError: jax finds none of the kind that the environment asks for.
    """
    try:
        return jax.local_devices()
    # Absent kinds of devices fail in their own ways, some without a message.
    except Exception as error:
        reason = printable(" ".join(str(error).split()), 300) or type(error).__name__
        kinds = os.environ.get("JAX_PLATFORMS")
        raise InputError(
            f"JAX_PLATFORMS={kinds}: jax finds no such device here ({reason}); unset it, or set cpu"
            if kinds
            else f"jax finds no device to compute on ({reason})"
        ) from error


def describe(mesh: jax.sharding.Mesh) -> list[str]:
    """Platform, number and kind of each device of a mesh."""
    return [f"{device.platform}:{device.id} {device.device_kind}" for device in mesh.devices.flat]


def versions() -> dict[str, Any]:
    """Versions of all software that determines the numbers."""
    return {
        "svdjax": svdjax.__version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "numpy": np.__version__,
        "scipy": importlib.metadata.version("scipy"),
        "python": platform.python_version(),
    }
