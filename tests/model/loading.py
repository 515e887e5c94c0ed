"""From a tiny variant to its directory, configuration and parameters."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from svdjax.checkpoint import ModelConfig, load_params, model_config, open_checkpoint
from svdjax.model import forward
from tests.model.variants import VARIANTS
from tests.support import tiny


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A variant on disk and in memory."""

    directory: pathlib.Path
    config: ModelConfig
    params: Any
    tokens: np.ndarray

    def logits(self, config: ModelConfig | None = None, params: Any = None) -> np.ndarray:
        """The decoder's logits [B, T, V], with another config or other parameters if given."""
        params = self.params if params is None else params
        if config is None:
            return np.asarray(forward(params, self.config, self.tokens))
        with jax.disable_jit():  # another config is asked once: compiling takes longer
            return np.asarray(forward(params, config, self.tokens))


def write(name: str, folder: pathlib.Path, *, style: str = "v4", **options: Any) -> pathlib.Path:
    """Write a variant's checkpoint into `folder`; options as in `tiny.make_checkpoint`."""
    variant = VARIANTS[name]
    directory = folder / f"{name}-{style}"
    overrides = {**variant.overrides, **options}
    return tiny.make_checkpoint(directory, variant.family, style=style, **overrides)


def load(directory: pathlib.Path) -> tuple[ModelConfig, Any]:
    """Configuration and float32 parameters of any directory."""
    config = model_config(directory)
    with open_checkpoint(directory) as checkpoint:
        return config, load_params(checkpoint, config, np.dtype(np.float32))


def load_variant(name: str, folder: pathlib.Path, **options: Any) -> Loaded:
    """Write and load a variant."""
    directory = write(name, folder, **options)
    return Loaded(directory, *load(directory), VARIANTS[name].tokens())


def traces(function: Any) -> int:
    """How many times a jitted function has been traced for new shapes or static arguments."""
    return function._cache_size()
