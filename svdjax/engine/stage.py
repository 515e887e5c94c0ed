"""What the sweep hands to each of its stages."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from svdjax.engine.settings import Settings


@dataclass(frozen=True)
class Stage:
    """What the sweep hands to a stage.

    Attributes:
      workdir: locked, clean.
      settings: how to compute.
      identity: digests of the inputs by source, and versions; they key the journal.
      mesh: the devices.
      entry: this stage's entry in sweep.json, kept up to date.
      save: writes sweep.json.
      check: raises if a stop was requested.
    """

    workdir: pathlib.Path
    settings: Settings
    identity: Mapping[str, Any]
    mesh: jax.sharding.Mesh
    entry: dict[str, Any]
    save: Callable[[], None]
    check: Callable[[str], None]
