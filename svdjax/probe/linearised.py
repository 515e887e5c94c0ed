"""The change of the logits that is first order in the change of the weights.

`f(W_b) + J Δ` with `Δ = W_p - W_b` and `J = f'(W_b)`, by one `jax.jvp` a batch, beside `f(W_p)`;
for all of Δ, for the part of it in one module (the other tangents are zero, and `f` is that of base
with this part replaced), and along `W_b + s Δ`. Logits are centred over the vocabulary at every
position, as softmax does not see what is added to all of them. Prompts are read in batches of like
length, and only sums by prompt come back.

Axes: `K` points, `P` prompts, `B` batch, `T` time, `V` vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh

from svdjax.checkpoint import ModelConfig
from svdjax.model import forward
from svdjax.model.sharding import ROWS
from svdjax.probe.activations import prompt_batches, put
from svdjax.report.numbers import percent
from svdjax.text.chat import ChatModel
from svdjax.text.likelihood import kl_divergence, log_probabilities

ALL, OTHER = "all", "other"
MODULES = ("self_attn", "mlp")
SCALES = (0.25, 0.5)
"""Steps along Δ that are looked at beside the whole of it."""
SUMS = (
    *("change", "linear", "error", "kl_base", "kl_linearised", "agree_base", "agree_linearised"),
    *("right_base", "right_linearised", "right_post"),
)
# Logits, tangents and log-probabilities of three models, and their differences.
_LOGITS_AT_ONCE = 10


class Point(NamedTuple):
    """A part of Δ, and the step along it; base with that step taken is what `post` stands for."""

    part: str
    scale: float = 1.0


@dataclass(frozen=True)
class Linearised:
    """Sums by prompt over the positions that count, float64.

    Attributes:
        points: Steps along the whole of Δ (`ALL`), and parts of it.
        tokens: [P], positions that count.
        continued: [P], those of them after which the text goes on.
        sums: [K, P] by name. Of centred logits ``change`` is `|f_post - f_base|^2`, ``linear``
            `|f_linearised - f_base|^2` and ``error`` `|f_post - f_linearised|^2`; ``kl_base`` is
            KL(post || base) and ``kl_linearised`` KL(post || linearised), nats; ``agree_base`` and
            ``agree_linearised`` count the positions where the likeliest next token is post's, and
            ``right_base``, ``right_linearised``, ``right_post`` those where it is the text's own.
    """

    points: tuple[Point, ...]
    tokens: np.ndarray
    continued: np.ndarray
    sums: Mapping[str, np.ndarray]

    def figures(self) -> list[dict[str, Any]]:
        """A row for each point.

        ``change`` is the root mean square over the positions of `|f_post - f_base|`, ``share`` is
        `1 - error / change` (of the squares), ``cosine`` that of the two changes of the logits;
        the others are means over the positions. NaN where nothing changes, or no text goes on.
        """
        return [self._row(index) for index in range(len(self.points))]

    def at(self, part: str = ALL, scale: float = 1.0) -> dict[str, Any]:
        """The row of a point."""
        return self._row(self.points.index(Point(part, scale)))

    def text(self, first: str) -> str:
        """A sentence on the whole of Δ, against `first` linearised."""
        row = self.at()
        return (
            f"{percent(row['share'])} of the change of the logits from {first} is first order in "
            f"the weights; KL from {first} linearised {row['kl_linearised']:.3g} nats per token "
            f"(from {first} {row['kl_base']:.3g}); likeliest next token that of {first} linearised "
            f"at {percent(row['agree_linearised'])} of positions (of {first} "
            f"{percent(row['agree_base'])})"
        )

    def _row(self, index: int) -> dict[str, Any]:
        sums = {name: float(values[index].sum()) for name, values in self.sums.items()}
        tokens, continued = float(self.tokens.sum()), float(self.continued.sum())
        means = {
            name: _ratio(sums[name], continued if name.startswith("right_") else tokens)
            for name in SUMS[3:]
        }
        change, linear, error = (sums[name] for name in SUMS[:3])
        point = self.points[index]
        return {
            "part": point.part,
            "scale": point.scale,
            "change": math.sqrt(_ratio(change, tokens)),
            "share": 1 - _ratio(error, change),
            "cosine": _ratio(change + linear - error, 2 * math.sqrt(change * linear)),
            **means,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays for an npz."""
        return {
            "parts": np.array([point.part for point in self.points]),
            "scales": np.array([point.scale for point in self.points]),
            "tokens": self.tokens,
            "continued": self.continued,
            **self.sums,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Linearised:
        """Those whose `arrays` these are; raises `KeyError` where one is missing."""
        pairs = zip(arrays["parts"].tolist(), arrays["scales"].tolist())
        points = tuple(Point(part, scale) for part, scale in pairs)
        sums = {name: arrays[name] for name in SUMS}
        return cls(points, arrays["tokens"], arrays["continued"], sums)


def linearise(
    base: Any,
    post: Any,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    mesh: Mesh,
    points: Sequence[Point] | None = None,
    counted: Sequence[np.ndarray] | None = None,
    dtype: Any = jnp.float32,
    batch_bytes: int = 256 << 20,
    done: Callable[[int], None] = lambda count: None,
) -> Linearised:
    """How far the logits of a model are those of another one linearised along their difference.

    The devices hold both models, one tangent tree, which is as large as a model, and the logits of
    one batch.

    Args:
        base: Weights around which is linearised, on the devices by `svdjax.model.shard_params`.
        post: Weights of the same tree and shapes.
        config: Both models.
        prompts: Token ids of each, at least one.
        mesh: Devices from `decoder_mesh`.
        points: What is measured; None: `points_of` the model.
        counted: For each prompt which of its positions count, bool of its length; None: all.
        dtype: Dtype of weights and computation. Differences of logits want float32 at least.
        batch_bytes: Budget of a batch's logits, which holds one prompt per device at least.
        done: Called with the number of prompts read; may raise to stop.

    Raises:
        ValueError: The trees differ in leaves or shapes, or no position counts.
    """
    _check(base, post, prompts, counted)
    points = points_of(base) if points is None else tuple(points)
    masks = {part: mask_of(base, part) for part in dict.fromkeys(p.part for p in points)}
    sums = {name: np.zeros((len(points), len(prompts))) for name in SUMS}
    tokens, continued = np.zeros(len(prompts)), np.zeros(len(prompts))
    count = 0

    def row_bytes(width: int) -> int:
        attention = 4 * config.num_heads * width * width
        return 4 * (_LOGITS_AT_ONCE * config.vocab_size * width + attention)

    for members, rows, lengths in prompt_batches(prompts, mesh.shape[ROWS], batch_bytes, row_bytes):
        chosen = np.arange(rows.shape[1]) < lengths[:, None]
        if counted is not None:
            for row, index in enumerate(members):
                chosen[row, : len(prompts[index])] &= counted[index]
        follows = chosen & (np.arange(rows.shape[1]) < lengths[:, None] - 1)
        tokens[members] = chosen[: len(members)].sum(axis=1)
        continued[members] = follows[: len(members)].sum(axis=1)
        batch = put(mesh, rows, lengths)
        marks = put(mesh, chosen, follows)
        # By the program that gives post's: what nothing changed is the same bit for bit.
        still = _moved(base, base, masks[points[0].part], np.float32(0), config, *batch, dtype)
        kept: tuple[str, Any] = "", None
        for k, (part, scale) in enumerate(points):
            if part != kept[0]:
                kept = part, _tangent(base, post, masks[part], config, *batch, dtype)
            moved = _moved(base, post, masks[part], np.float32(scale), config, *batch, dtype)
            found = _sums(still, kept[1], moved, np.float32(scale), batch[0], *marks)
            found = np.asarray(found)
            for name, values in zip(SUMS, found[:, : len(members)].astype(np.float64)):
                sums[name][k, members] = values
        count += len(members)
        done(count)
    return Linearised(points, tokens, continued, sums)


def parts_of(params: Any) -> dict[str, tuple[str, ...]]:
    """Paths of the leaves of each part of a model.

    ``all``; ``self_attn``, ``mlp`` and ``other`` (embedding, head, norms of the layers), which add
    up to it; and every projection by name, its bias included.
    """
    parts: dict[str, list[str]] = {ALL: [], **{module: [] for module in MODULES}, OTHER: []}
    projections: dict[str, list[str]] = {}
    flat = traverse_util.flatten_dict(params, sep="/")
    for path in flat:
        names = path.split("/")
        module = names[1] if names[0] == "layers" and names[1] in MODULES else OTHER
        parts[ALL].append(path)
        parts[module].append(path)
        owner = path.rpartition("/")[0]
        if module != OTHER and f"{owner}/kernel" in flat:
            projections.setdefault(".".join(names[2:-1]), []).append(path)
    return {name: tuple(paths) for name, paths in (parts | projections).items() if paths}


def points_of(params: Any) -> tuple[Point, ...]:
    """The whole of Δ, the steps `SCALES` along it, then each part."""
    steps = (Point(ALL, scale) for scale in (1.0, *SCALES))
    return (*steps, *(Point(part) for part in parts_of(params) if part != ALL))


def mask_of(params: Any, part: str) -> Any:
    """A tree like the model's of bool scalars, true for the leaves of a part."""
    chosen = set(parts_of(params)[part])
    flat = traverse_util.flatten_dict(params, sep="/")
    return traverse_util.unflatten_dict({path: np.bool_(path in chosen) for path in flat}, sep="/")


def why_not_one_function(
    base: ModelConfig,
    post: ModelConfig,
    base_chat: ChatModel,
    post_chat: ChatModel,
    prompts: Sequence[Sequence[int]],
) -> str:
    """Why two models are not one function of their weights on post's prompts; empty if they are."""
    differences = [
        f"{field.name} is {getattr(base, field.name)} in the one and {getattr(post, field.name)} "
        "in the other"
        for field in fields(ModelConfig)
        if field.name != "max_position_embeddings"
        and getattr(base, field.name) != getattr(post, field.name)
    ]
    if differences:
        return ", ".join(differences)
    longest = max(map(len, prompts))
    if longest > base.max_position_embeddings:
        return f"a prompt has {longest} tokens, and the one sees {base.max_position_embeddings}"
    if any(base_chat.decode(prompt) != post_chat.decode(prompt) for prompt in prompts):
        return "their tokenizers give the same tokens another text"
    return ""


def _check(base: Any, post: Any, prompts: Sequence[Any], counted: Sequence[Any] | None) -> None:
    trees: list[Any] = [traverse_util.flatten_dict(tree, sep="/") for tree in (base, post)]
    shapes = [{path: leaf.shape for path, leaf in tree.items()} for tree in trees]
    if shapes[0] != shapes[1]:
        differing = sorted(
            path
            for path in shapes[0].keys() | shapes[1].keys()
            if shapes[0].get(path) != shapes[1].get(path)
        )
        raise ValueError(f"{', '.join(differing[:4])}: not of the same shape in both models")
    if not prompts or not all(map(len, prompts)):
        raise ValueError("a prompt is empty, or there is none; expected at least one token each")
    if counted is not None and not any(each.any() for each in counted):
        raise ValueError("no position counts, so there is nothing to measure")


def _ratio(sum_: float, count: float) -> float:
    return sum_ / count if count else math.nan


def _valid(tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    return jnp.arange(tokens.shape[1], dtype=jnp.int32)[None, :] < lengths[:, None]


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _tangent(
    base: Any,
    post: Any,
    mask: Any,
    config: ModelConfig,
    tokens: jax.Array,
    lengths: jax.Array,
    dtype: Any,
) -> jax.Array:
    """Derivative of base's logits along the part of Δ, [B, T, V]."""
    delta = jax.tree.map(lambda m, b, p: jnp.where(m, p - b, jnp.zeros_like(b)), mask, base, post)
    valid = _valid(tokens, lengths)
    _, tangent = jax.jvp(
        lambda params: forward(params, config, tokens, valid, dtype=dtype), (base,), (delta,)
    )
    return tangent


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _moved(
    base: Any,
    post: Any,
    mask: Any,
    scale: jax.Array,
    config: ModelConfig,
    tokens: jax.Array,
    lengths: jax.Array,
    dtype: Any,
) -> jax.Array:
    """Logits [B, T, V] of base after the step; exactly those of post's leaves at the scale 1."""

    def step(m: jax.Array, b: jax.Array, p: jax.Array) -> jax.Array:
        s = scale.astype(b.dtype)
        return jnp.where(m, (1 - s) * b + s * p, b)

    params = jax.tree.map(step, mask, base, post)
    return forward(params, config, tokens, _valid(tokens, lengths), dtype=dtype)


@jax.jit
def _sums(
    base: jax.Array,
    tangent: jax.Array,
    post: jax.Array,
    scale: jax.Array,
    tokens: jax.Array,
    chosen: jax.Array,
    follows: jax.Array,
) -> jax.Array:
    """`SUMS` of each row, [10, B], from logits [B, T, V] and marks of positions [B, T]."""
    linear = base + scale.astype(base.dtype) * tangent
    targets = jnp.concatenate([tokens[:, 1:], jnp.zeros_like(tokens[:, :1])], axis=1)

    def squared(difference: jax.Array) -> jax.Array:
        centred = difference - jnp.mean(difference, axis=-1, keepdims=True)
        return jnp.sum(centred * centred, axis=-1)

    logs = [log_probabilities(logits) for logits in (post, base, linear)]
    likeliest = [jnp.argmax(each, axis=-1).astype(jnp.int32) for each in (base, linear, post)]
    by_position = [
        squared(post - base),
        squared(linear - base),
        squared(post - linear),
        *(kl_divergence(logs[0], log) for log in logs[1:]),
        *(each == likeliest[2] for each in likeliest[:2]),
    ]
    right = [each == targets for each in likeliest]
    masked = [(chosen, each) for each in by_position] + [(follows, each) for each in right]
    values = [jnp.where(mask, each.astype(jnp.float32), 0.0) for mask, each in masked]
    return jnp.sum(jnp.stack(values), axis=2)
