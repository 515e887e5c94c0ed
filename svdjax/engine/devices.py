"""The mesh that layers are spread over, and what sweep.json says about the machine."""

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
    """Returns a mesh with the one axis ``layers`` over `count` devices of this process.

    Args:
      count: how many; 0 for all, but of CPU devices, which share the machine's memory, only as
        many as work in half of it.
      working_bytes: what the largest matrix takes on a device while it is worked on.

    Raises:
      InputError: there are fewer devices than that.
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
            count = max(1, min(count, _memory() // 2 // working_bytes))
    used = devices[:count]
    return jax.make_mesh((len(used),), ("layers",), devices=used)


def local_devices() -> list[Any]:
    """The devices of this process.

    Raises:
      InputError: jax finds none of the kind that the environment asks for.
    """
    try:
        return jax.local_devices()
    # Kinds of devices that are not there fail in their own ways, some with nothing to say.
    except Exception as error:
        said = printable(" ".join(str(error).split()), 300) or type(error).__name__
        kinds = os.environ.get("JAX_PLATFORMS")
        raise InputError(
            f"JAX_PLATFORMS={kinds}: jax finds no such device here ({said}); unset it, or set cpu"
            if kinds
            else f"jax finds no device to compute on ({said})"
        ) from error


def describe(mesh: jax.sharding.Mesh) -> list[str]:
    """The devices of a mesh in words."""
    return [f"{device.platform}:{device.id} {device.device_kind}" for device in mesh.devices.flat]


def _memory() -> int:
    # The machine's whole memory, not what is free now: a sweep goes on with the same mesh.
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def versions() -> dict[str, Any]:
    """Versions of everything that has a hand in the numbers."""
    return {
        "svdjax": svdjax.__version__,
        "jax": jax.__version__,
        "jaxlib": importlib.metadata.version("jaxlib"),
        "numpy": np.__version__,
        "scipy": importlib.metadata.version("scipy"),
        "python": platform.python_version(),
    }
