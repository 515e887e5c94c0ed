"""The mesh that layers are spread over, and what sweep.json says about the machine."""

from __future__ import annotations

import platform
from typing import Any

import jax
import jaxlib
import numpy as np

import svdjax
from svdjax.errors import InputError
from svdjax.spectral import FACTORISATIONS


def layer_mesh(count: int = 0) -> jax.sharding.Mesh:
    """Returns a mesh with the one axis ``layers`` over `count` devices, 0 for all.

    Raises:
      InputError: there are fewer devices than that.
    """
    devices = jax.devices()
    if count > len(devices):
        raise InputError(
            f"config.devices={count}: jax sees {len(devices)} device(s) "
            f"({devices[0].device_kind}); use 0 for all of them"
        )
    used = devices[: count or len(devices)]
    return jax.make_mesh((len(used),), ("layers",), devices=used)


def check_factorisation(name: str) -> None:
    """Raises `InputError` unless `name` is a known factorisation."""
    if name not in FACTORISATIONS:
        raise InputError(
            f"config.factorisation={name!r}: expected one of {', '.join(FACTORISATIONS)}"
        )


def describe(mesh: jax.sharding.Mesh) -> list[str]:
    """The devices of a mesh in words."""
    return [f"{device.platform}:{device.id} {device.device_kind}" for device in mesh.devices.flat]


def versions() -> dict[str, Any]:
    """Versions of everything that has a hand in the numbers."""
    return {
        "svdjax": svdjax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
