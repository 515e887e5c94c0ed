"""Disguises: other weights, the same function. What a fingerprint has to see through.

Axes: `L` layers, `D` model, `F` ffn, `K` kv heads, `G` query heads per kv head, `H` head dim,
`V` vocabulary. Trees are those of `svdjax.checkpoint.load_params`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from svdjax.checkpoint import ModelConfig
from svdjax.checkpoint.families import FAMILIES, dimensions
from svdjax.errors import InputError
from svdjax.fingerprint.disguises import DISGUISES, Tree, impossible

NOISE = 0.01
ROUGH = ("noise", "bf16")
"""Those that change it a little."""


def disguise(
    params: Mapping[str, Any],
    config: ModelConfig,
    names: Iterable[str],
    *,
    seed: int = 0,
    noise: float = NOISE,
) -> tuple[Tree, ModelConfig]:
    """Apply noise, disguises in the order of `DISGUISES`, rounding; whatever the order of `names`.

    Args:
        params: The model; left as it is.
        config: Its configuration.
        names: From `DISGUISES`, `ROUGH`, or "all" for every one of `DISGUISES`.
        seed: Of everything random.
        noise: Deviation of "noise", relative to the root mean square of each tensor.

    Returns:
        The tree in float64 and its configuration: a rotation unties head and embedding.

    Raises:
        InputError: A name is unknown, or the architecture does not allow the disguise.
    """
    wanted = set(names)
    if unknown := wanted - {"all", *DISGUISES, *ROUGH}:
        raise InputError(
            f"disguise {sorted(unknown)[0]!r}: expected some of {', '.join(DISGUISES)}, "
            f"{', '.join(ROUGH)} or all"
        )
    if "all" in wanted:
        wanted |= DISGUISES.keys() - set(impossible(config))
    for name, why in impossible(config).items():
        if name in wanted:
            raise InputError(f"disguise {name!r}: not for {config.family}, {why}")
    tree = _as_float64(params)
    if "noise" in wanted:
        # Before the scales are moved: what is small beside a tensor drowns what was scaled down in
        # it, and with it the model itself.
        tree = _noisy(tree, np.random.default_rng([seed, 99]), noise)
    tree = _split(tree, config)
    if "rotation" in wanted:
        config = _untie(tree, config)
    for number, (name, change) in enumerate(DISGUISES.items()):
        if name in wanted:
            change(tree, config, np.random.default_rng([seed, number]))
    tree = _joined(tree, config)
    return (_rounded(tree) if "bf16" in wanted else tree), config


def _untie(tree: Tree, config: ModelConfig) -> ModelConfig:
    if config.tie_word_embeddings:
        tree["lm_head"] = {"kernel": tree["embed_tokens"]["embedding"].T.copy()}
    return dataclasses.replace(config, tie_word_embeddings=False)


def _as_float64(params: Any) -> Any:
    if isinstance(params, Mapping):
        return {name: _as_float64(leaf) for name, leaf in params.items()}
    return np.array(params, np.float64)


def _split(tree: Tree, config: ModelConfig) -> Tree:
    """Fused projections as their parts."""
    for module, name, parts in _fused(config):
        kernel = tree["layers"][module].pop(name)["kernel"]
        sizes = [dimensions(config)[letter] for _, letter in parts]
        pieces = np.split(kernel, np.cumsum(sizes)[:-1], axis=-1)
        for (part, _), piece in zip(parts, pieces):
            tree["layers"][module][part] = {"kernel": piece.copy()}
    return tree


def _joined(tree: Tree, config: ModelConfig) -> Tree:
    for module, name, parts in _fused(config):
        pieces = [tree["layers"][module].pop(part)["kernel"] for part, _ in parts]
        tree["layers"][module][name] = {"kernel": np.concatenate(pieces, axis=-1)}
    return tree


def _fused(config: ModelConfig) -> list[tuple[str, str, tuple[tuple[str, str], ...]]]:
    weights = FAMILIES[config.family].present(config)
    return [(each.module, each.projection, each.parts) for each in weights if each.parts]


def _noisy(tree: Any, rng: np.random.Generator, noise: float) -> Any:
    if isinstance(tree, Mapping):
        return {name: _noisy(leaf, rng, noise) for name, leaf in tree.items()}
    step = noise * np.sqrt(np.mean(tree**2))
    return tree + step * rng.standard_normal(tree.shape)


def _rounded(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _rounded(leaf) for name, leaf in tree.items()}
    return copy.copy(tree).astype(ml_dtypes.bfloat16).astype(np.float64)
