"""From a tiny variant to its directory, configuration and parameters."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from svdjax.checkpoint import Checkpoint, ModelConfig, load_params, model_config, open_checkpoint
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
        view: Any = Renamed(checkpoint) if config.family == "mixtral" else checkpoint
        return config, load_params(view, config, np.dtype(np.float32))


class Renamed:
    """A checkpoint of mixtral by the canonical names of its tensors."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint
        self._stored = {canonical_name(name): name for name in checkpoint.names}
        self.names = tuple(sorted(self._stored))

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._checkpoint, attribute)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def spec(self, name: str) -> Any:
        return self._checkpoint.spec(self._stored[name])

    def where(self, name: str) -> pathlib.Path:
        return self._checkpoint.where(self._stored[name])

    def read(self, name: str, rows: tuple[int, int] | None = None) -> np.ndarray:
        return self._checkpoint.read(self._stored[name], rows)


def canonical_name(name: str) -> str:
    """The inverse of `tiny.stored_name`."""
    name = name.replace(".block_sparse_moe.", ".mlp.")
    for role, number in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
        name = name.replace(f".{number}.", f".{role}.")
    return name


def load_variant(name: str, folder: pathlib.Path, **options: Any) -> Loaded:
    """Write and load a variant."""
    directory = write(name, folder, **options)
    return Loaded(directory, *load(directory), VARIANTS[name].tokens())


def traces(function: Any) -> int:
    """How many times a jitted function has been traced for new shapes or static arguments."""
    return function._cache_size()
