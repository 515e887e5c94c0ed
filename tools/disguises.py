"""Disguises: other weights, the same function, for a fingerprint to see through.

Axes: `L` layers, `D` model, `F` ffn, `K` kv heads, `G` query heads per kv head, `H` head dim, `A`
rotary planes. Trees are those of `svdjax.checkpoint.load_params`; the disguises one by one change
them in place, with leaves in float64 and fused projections split.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from svdjax.checkpoint import ModelConfig
from svdjax.checkpoint.families import FAMILIES, dimensions
from svdjax.errors import InputError
from svdjax.fingerprint.layer import READERS, norms_before, rotary_planes

Tree = dict[str, Any]
Change = Callable[[Tree, ModelConfig, np.random.Generator], None]
NOISE = 0.01
ROUGH = ("noise", "bf16")
"""Disguises that change the function a little."""
_OUT = {"self_attn": "o_proj", "mlp": "down_proj"}
_SPREAD = 6.0  # scales are exp(u), u uniform in +-_SPREAD; of mixtures, which lose digits, in +-1


def disguise(
    params: Mapping[str, Any],
    config: ModelConfig,
    names: Iterable[str],
    *,
    seed: int = 0,
    noise: float = NOISE,
) -> tuple[Tree, ModelConfig]:
    """A model after noise, disguises in the order of `DISGUISES`, rounding.

    Args:
        params: The model; left as it is.
        config: Its configuration.
        names: Names from `DISGUISES` and `ROUGH` in any order, or "all" for every one of
            `DISGUISES` that the architecture allows.
        seed: Seed of everything random.
        noise: Deviation of "noise", relative to the root mean square of each tensor.

    Returns:
        The tree in float64 and its configuration: a rotation unties head and embedding.

    Raises:
        InputError: A name is unknown, or the architecture does not allow the disguise.
    """
    chosen = set(names)
    if unknown := chosen - {"all", *DISGUISES, *ROUGH}:
        raise InputError(
            f"disguise {sorted(unknown)[0]!r}: expected some of {', '.join(DISGUISES)}, "
            f"{', '.join(ROUGH)} or all"
        )
    if "all" in chosen:
        chosen |= DISGUISES.keys() - set(impossible(config))
    for name, why in impossible(config).items():
        if name in chosen:
            raise InputError(f"disguise {name!r}: not for {config.family}, {why}")
    tree = _mapped(lambda leaf: np.array(leaf, np.float64), params)
    if "noise" in chosen:
        # Before the scales are moved: what is small beside a tensor drowns what was scaled down in
        # it, and with it the model itself.
        rng = np.random.default_rng([seed, 99])

        def noisy(leaf: np.ndarray) -> np.ndarray:
            step = noise * np.sqrt(np.mean(leaf**2))
            return leaf + step * rng.standard_normal(leaf.shape)

        tree = _mapped(noisy, tree)
    _split(tree, config)
    if "rotation" in chosen:
        if config.tie_word_embeddings:
            tree["lm_head"] = {"kernel": tree["embed_tokens"]["embedding"].T.copy()}
        config = dataclasses.replace(config, tie_word_embeddings=False)
    for number, (name, change) in enumerate(DISGUISES.items()):
        if name in chosen:
            change(tree, config, np.random.default_rng([seed, number]))
    _join(tree, config)
    if "bf16" in chosen:
        tree = _mapped(lambda leaf: leaf.astype(ml_dtypes.bfloat16).astype(np.float64), tree)
    return tree, config


def _mapped(change: Callable[[Any], np.ndarray], tree: Any) -> Any:
    """The tree with every leaf changed, in its own order (noise depends on it)."""
    if isinstance(tree, Mapping):
        return {name: _mapped(change, leaf) for name, leaf in tree.items()}
    return change(tree)


def _split(tree: Tree, config: ModelConfig) -> None:
    """Replaces fused projections by their parts."""
    for module, name, parts in _fused(config):
        kernel = tree["layers"][module].pop(name)["kernel"]
        sizes = [dimensions(config)[letter] for _, letter in parts]
        pieces = np.split(kernel, np.cumsum(sizes)[:-1], axis=-1)
        for (part, _), piece in zip(parts, pieces):
            tree["layers"][module][part] = {"kernel": piece.copy()}


def _join(tree: Tree, config: ModelConfig) -> None:
    for module, name, parts in _fused(config):
        pieces = [tree["layers"][module].pop(part)["kernel"] for part, _ in parts]
        tree["layers"][module][name] = {"kernel": np.concatenate(pieces, axis=-1)}


def _fused(config: ModelConfig) -> list[tuple[str, str, tuple[tuple[str, str], ...]]]:
    weights = FAMILIES[config.family].present(config)
    return [(each.module, each.projection, each.parts) for each in weights if each.parts]


def _neurons(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """Another order of the neurons in every block."""
    for place, mlp in _feed_forwards(tree, config):
        order = _cycle(mlp["down_proj"]["kernel"].shape[-2], rng)
        for name in ("gate_proj", "up_proj"):
            for leaf in mlp[name].values():
                leaf[place] = leaf[place][..., order]
        mlp["down_proj"]["kernel"][place] = mlp["down_proj"]["kernel"][place][order]


def _feed_forwards(tree: Tree, config: ModelConfig) -> Iterator[tuple[tuple[int, ...], Tree]]:
    """Yields the feed-forward parts of every block, its experts': index in the leaves, leaves."""
    mlp = tree["layers"]["mlp"]
    for layer in range(config.num_layers):
        if config.num_experts:
            yield from (((layer, expert), mlp["experts"]) for expert in range(config.num_experts))
        if config.shared_expert_size:
            yield (layer,), mlp["shared_expert"]
        if not config.num_experts:
            yield (layer,), mlp


def _experts(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """Another order of the experts, each with its column of the router."""
    mlp = tree["layers"]["mlp"]
    for layer in range(config.num_layers):
        order = _cycle(config.num_experts, rng)
        for leaves in mlp["experts"].values():
            leaves["kernel"][layer] = leaves["kernel"][layer][order]
        mlp["gate"]["kernel"][layer] = mlp["gate"]["kernel"][layer][:, order]


def _heads(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """Another order of the query heads within their groups."""
    kv, group = config.num_kv_heads, config.num_heads // config.num_kv_heads
    for layer in range(config.num_layers):
        order = np.stack([_cycle(group, rng) + group * head for head in range(kv)]).ravel()
        _order_heads(tree, config, layer, order, np.arange(kv))


def _groups(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """Another order of the kv heads, each with its query heads."""
    kv, group = config.num_kv_heads, config.num_heads // config.num_kv_heads
    for layer in range(config.num_layers):
        order = _cycle(kv, rng)
        queries = (group * order[:, None] + np.arange(group)[None, :]).ravel()
        _order_heads(tree, config, layer, queries, order)


def _cycle(count: int, rng: np.random.Generator) -> np.ndarray:
    """A random permutation that leaves nothing in its place, where there is more than one."""
    around = rng.permutation(count)
    order = np.empty(count, int)
    order[around] = np.roll(around, 1)
    return order


def _order_heads(
    tree: Tree, config: ModelConfig, layer: int, queries: np.ndarray, keys: np.ndarray
) -> None:
    attention, H = tree["layers"]["self_attn"], config.head_dim
    orders = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
    for name, order in orders.items():
        columns = (H * order[:, None] + np.arange(H)[None, :]).ravel()
        for leaf in attention[name].values():
            leaf[layer] = leaf[layer][..., columns]
    if config.qk_norm == "all":
        for name, order in (("q_norm", queries), ("k_norm", keys)):
            scale = attention[name]["scale"][layer].reshape(-1, H)
            attention[name]["scale"][layer] = scale[order].ravel()
    rows = (H * queries[:, None] + np.arange(H)[None, :]).ravel()
    attention["o_proj"]["kernel"][layer] = attention["o_proj"]["kernel"][layer][rows]


def _vo(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """Each dimension of a value head scaled, o scaled back."""
    factors = np.exp(
        rng.uniform(-_SPREAD, _SPREAD, (config.num_layers, config.num_kv_heads, config.head_dim))
    )
    mixes = factors[..., None] * np.eye(config.head_dim)
    _mix_values(tree, config, mixes)


def _values(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """Another basis of each value head (any invertible H x H matrix), undone in o."""
    H = config.head_dim
    shape = (config.num_layers, config.num_kv_heads, H, H)
    u, v = (np.linalg.qr(rng.standard_normal(shape))[0] for _ in range(2))
    _mix_values(tree, config, (u * np.exp(rng.uniform(-1, 1, shape[:3]))[..., None, :]) @ v)


def _mix_values(tree: Tree, config: ModelConfig, mixes: np.ndarray) -> None:
    attention, H = tree["layers"]["self_attn"], config.head_dim
    for leaf in attention["v_proj"].values():
        heads = leaf.reshape(len(leaf), -1, config.num_kv_heads, 1, H)
        leaf[...] = (heads @ mixes[:, None]).reshape(leaf.shape)
    kernel = attention["o_proj"]["kernel"]
    heads = kernel.reshape(len(kernel), config.num_kv_heads, -1, H, kernel.shape[-1])
    kernel[...] = (np.linalg.inv(mixes)[:, :, None] @ heads).reshape(kernel.shape)


def _planes(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """Each rotary plane of k rotated and scaled, that of its queries rotated and scaled back."""
    A, kv = rotary_planes(config), config.num_kv_heads
    shape = (config.num_layers, 1, kv, 1, A)
    factor = np.exp(rng.uniform(-_SPREAD, _SPREAD, shape) + 1j * rng.uniform(0, 2 * np.pi, shape))
    for name, multiplier in (("k_proj", factor), ("q_proj", 1 / factor.conj())):
        for leaf in tree["layers"]["self_attn"][name].values():
            heads = leaf.reshape(
                len(leaf), -1, kv, leaf.shape[-1] // (kv * config.head_dim), config.head_dim
            )
            planes = (heads[..., :A] + 1j * heads[..., A : 2 * A]) * multiplier
            heads[..., :A], heads[..., A : 2 * A] = planes.real, planes.imag
            leaf[...] = heads.reshape(leaf.shape)


def _updown(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """Each neuron's up scaled, by either sign, and its down scaled back."""
    mlp = tree["layers"]["mlp"]
    parts = [mlp[name] for name in ("experts", "shared_expert") if name in mlp] or [mlp]
    for part in parts:
        down = part["down_proj"]["kernel"]
        shape = down.shape[:-1]
        factor = np.exp(rng.uniform(-_SPREAD, _SPREAD, shape)) * rng.choice([-1.0, 1.0], shape)
        for leaf in part["up_proj"].values():
            leaf *= factor if leaf.ndim == factor.ndim else factor[..., None, :]
        down /= factor[..., None]


def _norms(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """Each scale of a norm changed, and the rows of the matrices after it changed back."""
    for module, norm in norms_before(config).items():
        shape = (config.num_layers, config.hidden_size)
        _fold(tree, config, module, norm, np.exp(rng.uniform(-_SPREAD, _SPREAD, shape)))
    if not config.tie_word_embeddings:
        factor = np.exp(rng.uniform(-_SPREAD, _SPREAD, config.hidden_size))
        _fold_head(tree, config, factor)


def _rotation(tree: Tree, config: ModelConfig, rng: np.random.Generator) -> None:
    """The residual stream in another orthonormal basis, the norms' scales folded in."""
    D = config.hidden_size
    r, upper = np.linalg.qr(rng.standard_normal((D, D)))
    r *= np.sign(np.diagonal(upper))[None, :]
    for module, norm in norms_before(config).items():
        scale = tree["layers"][norm]["scale"] + config.norm_plus_one
        _fold(tree, config, module, norm, scale)
        for leaf in _readers(tree, module):
            leaf[...] = r.T @ leaf
        for leaf in _writers(tree, module):
            leaf[...] = leaf @ r
    _fold_head(tree, config, tree["norm"]["scale"] + config.norm_plus_one)
    tree["lm_head"]["kernel"] = r.T @ tree["lm_head"]["kernel"]
    tree["embed_tokens"]["embedding"] = tree["embed_tokens"]["embedding"] @ r


def impossible(config: ModelConfig) -> dict[str, str]:
    """Disguises that would change what a model of this architecture computes, and why."""
    reasons = {}
    if config.post_norms:
        reasons["rotation"] = "which scales what it adds to the residual stream"
    if config.qk_norm:
        reasons["planes"] = "which normalises queries and keys"
    if not config.num_experts:
        reasons["experts"] = "which has none"
    return reasons


def _fold(tree: Tree, config: ModelConfig, module: str, norm: str, factor: np.ndarray) -> None:
    """Divides the norm's scale [L, D] by `factor` and multiplies the rows after it by it."""
    scale = tree["layers"][norm]["scale"]
    scale[...] = (scale + config.norm_plus_one) / factor - config.norm_plus_one
    for leaf in _readers(tree, module):
        leaf *= factor.reshape(len(factor), *(1,) * (leaf.ndim - 3), -1, 1)


def _readers(tree: Tree, module: str) -> list[np.ndarray]:
    """Kernels [..., D, out] of a module that read the residual stream."""
    leaves = tree["layers"][module]
    kernels = [
        part[name]["kernel"]
        for part in (leaves, leaves.get("experts", {}), leaves.get("shared_expert", {}))
        for name in READERS[module]
        if name in part
    ]
    gates = ("gate", "shared_expert_gate")
    return kernels + [leaves[name]["kernel"] for name in gates if name in leaves]


def _writers(tree: Tree, module: str) -> list[np.ndarray]:
    """Leaves [..., D] of a module that write to it."""
    leaves = tree["layers"][module]
    return [
        leaf
        for part in (leaves, leaves.get("experts", {}), leaves.get("shared_expert", {}))
        if _OUT[module] in part
        for leaf in part[_OUT[module]].values()
    ]


def _fold_head(tree: Tree, config: ModelConfig, factor: np.ndarray) -> None:
    scale = tree["norm"]["scale"]
    scale[...] = (scale + config.norm_plus_one) / factor - config.norm_plus_one
    tree["lm_head"]["kernel"] *= factor[:, None]


DISGUISES: Mapping[str, Change] = MappingProxyType(
    {
        "neurons": _neurons,
        "experts": _experts,
        "heads": _heads,
        "groups": _groups,
        "values": _values,
        "vo": _vo,
        "planes": _planes,
        "updown": _updown,
        "norms": _norms,
        "rotation": _rotation,
    }
)
"""Disguises that leave the function unchanged, by name."""
