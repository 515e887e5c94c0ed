"""KL divergence, loss and agreement of an edited model's next-token predictions.

Axes: `B` batch, `T` time, `V` vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.checkpoint import ModelConfig
from svdjax.model import forward
from svdjax.text.likelihood import kl_divergence, log_probabilities
from svdjax.text.texts import Rows

_BLOCK = 32


class Divergence(NamedTuple):
    """Means over the counted tokens of a text.

    Attributes:
        loss: Next-token cross-entropy of the edited model, nats; NaN where its logits are not
            finite.
        kl: KL(original || edited) of the next-token distributions, nats, never negative; NaN
            where the logits of either model are not finite.
        agreement: Percentage of tokens with the same likeliest prediction; NaN like `kl`.
        original_loss: Cross-entropy of the original, nats; NaN where its logits are not finite.
        tokens: Number of counted tokens.
    """

    loss: float
    kl: float
    agreement: float
    original_loss: float
    tokens: int


class Divergences:
    """Measures any number of edited models against one original.

    Original and batches stay on the devices, and so do the original's predictions where those of
    all batches together take no more than one batch may. Rows are batched by length, so that few
    shapes are compiled: lengths are rounded up to multiples of 32, from 512 on to an eighth of the
    next lower power of two. Padding is masked: a row's numbers do not depend on the rows beside it.

    Parameters lie on the devices in float32, in which the decoder computes, whatever their dtype
    was; leaves that original and edited model share lie there once.
    """

    def __init__(
        self,
        original: Any,
        config: ModelConfig,
        rows: Rows,
        *,
        mesh: jax.sharding.Mesh | None = None,
        batch_bytes: int = 256 << 20,
    ):
        """Makes the batches and puts the original on the devices.

        Args:
            original: The original's parameters, as `svdjax.checkpoint.load_params` gives them, any
                float dtype. They are kept, and may not be changed in place.
            config: Configuration of both models.
            rows: The text.
            mesh: Devices (one axis) to spread batches and parameters over; None for one.
            batch_bytes: Size of the float32 logits of both models in one batch, which holds one
                row per device at least.

        Raises:
            ValueError: No token of `rows` counts.
        """
        if not rows.targets:
            raise ValueError("rows: no token counts, so there is nothing to measure")
        if mesh is None:
            self._mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:1]), ("rows",))
        else:
            # Auto axes whatever the caller's, so that jit divides the work by itself.
            self._mesh = jax.sharding.Mesh(mesh.devices, mesh.axis_names)
        self.config, self.tokens = config, rows.targets
        self._source = original
        self._original = jax.tree.map(self._put, original)
        by_row = self._sharding(self._mesh.axis_names[0])
        self._batches = [
            (jax.device_put(tokens, by_row), jax.device_put(lengths, by_row), counted)
            for tokens, lengths, counted in _batches(rows, config, self._mesh.size, batch_bytes)
        ]
        cells = sum(counted.size for *_, counted in self._batches)
        self._caches = 4 * cells * config.vocab_size <= batch_bytes
        self._predictions: dict[int, jax.Array] = {}

    def measure(self, edited: Any) -> Divergence:
        """Divergence of an edited model from the original.

        Args:
            edited: Parameters: a tree like the original's, any float dtype. A leaf that is the very
                object which the original holds counts as unchanged.

        Raises:
            ValueError: The tree, or a leaf's shape, is another than the original's.
        """
        params = jax.tree_util.tree_map_with_path(
            self._shared, edited, self._source, self._original
        )
        sums = np.zeros(4, np.float64)
        for index, (tokens, lengths, counted) in enumerate(self._batches):
            p, q = self._original_log(index), _predict(params, self.config, tokens, lengths)
            metrics = np.asarray(_compare(p, q, tokens))
            # Added up here in float64, whatever the devices work in.
            sums += metrics[:, counted].sum(axis=1, dtype=np.float64)
        loss, kl, agreement, original = (sums / self.tokens).tolist()
        return Divergence(loss, kl, 100 * agreement, original, self.tokens)

    def _original_log(self, index: int) -> jax.Array:
        """Log-probabilities of the original for a batch."""
        if index in self._predictions:
            return self._predictions[index]
        tokens, lengths, _ = self._batches[index]
        log = _predict(self._original, self.config, tokens, lengths)
        if self._caches:
            self._predictions[index] = log
        return log

    def _shared(self, path: Any, leaf: Any, source: Any, placed: jax.Array) -> jax.Array:
        if leaf is source:
            return placed
        if leaf.shape != placed.shape:
            name = jax.tree_util.keystr(path)
            raise ValueError(f"{name}: shape {leaf.shape}, and the original's is {placed.shape}")
        return self._put(leaf)

    def _put(self, leaf: Any) -> jax.Array:
        """A leaf in float32, split along its longest axis that the devices divide."""
        axes: list[Any] = [None] * len(leaf.shape)
        fitting = [i for i, size in enumerate(leaf.shape) if size % self._mesh.size == 0]
        if fitting:
            axes[max(fitting, key=lambda i: leaf.shape[i])] = self._mesh.axis_names[0]
        return jax.device_put(leaf, self._sharding(*axes)).astype(jnp.float32)

    def _sharding(self, *axes: str | None) -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(*axes))


def _rounded(length: int) -> int:
    """A length with few others like it, at most an eighth longer from 256 on."""
    step = max(_BLOCK, (1 << length.bit_length()) // 16)
    return -(-length // step) * step


def _batches(
    rows: Rows, config: ModelConfig, devices: int, batch_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Tokens [B, T + 1] int32, padded on the right; inputs per row [B] int32; counted [B, T] bool.

    All batches of one T have one B; the last is filled up with empty rows.
    """
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows.tokens):
        by_length.setdefault(_rounded(len(row) - 1), []).append(index)
    for length, members in sorted(by_length.items()):
        most = max(1, batch_bytes // (8 * length * config.vocab_size))
        # As many batches as it takes, all about equally full.
        size = -(-len(members) // -(-len(members) // most))
        size = -(-size // devices) * devices
        for start in range(0, len(members), size):
            tokens = np.zeros((size, length + 1), np.int32)
            lengths = np.zeros(size, np.int32)
            counted = np.zeros((size, length), bool)
            for line, index in enumerate(members[start : start + size]):
                row = rows.tokens[index]
                # Padded with a token of its own: even a masked key spreads a NaN of its embedding.
                tokens[line] = row[0]
                tokens[line, : len(row)] = row
                lengths[line] = len(row) - 1
                counted[line, : len(row) - 1] = rows.weights[index] > 0
            yield tokens, lengths, counted


@functools.partial(jax.jit, static_argnames=("config",))
def _predict(params: Any, config: ModelConfig, tokens: jax.Array, lengths: jax.Array) -> jax.Array:
    """Log-probabilities of the next token at each position, [B, T, V] float32."""
    inputs = tokens[:, :-1]
    # Causal masks hide padding on the right by themselves, but longrope looks at the last position.
    valid = jnp.arange(inputs.shape[1], dtype=jnp.int32)[None, :] < lengths[:, None]
    return log_probabilities(forward(params, config, inputs, valid))


@jax.jit
def _compare(p: jax.Array, q: jax.Array, tokens: jax.Array) -> jax.Array:
    """Loss, KL, agreement and original loss of each position, [4, B, T] float32.

    Args:
        p: Log-probabilities of the original.
        q: Log-probabilities of the edited model.
        tokens: Token ids, [B, T + 1].
    """
    targets = tokens[:, 1:]

    def loss(log: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(log, targets[..., None], axis=-1)[..., 0]

    kl = kl_divergence(p, q)
    same = (jnp.argmax(p, axis=-1) == jnp.argmax(q, axis=-1)).astype(jnp.float32)
    return jnp.stack([loss(q), kl, jnp.where(jnp.isnan(kl), jnp.nan, same), loss(p)])
