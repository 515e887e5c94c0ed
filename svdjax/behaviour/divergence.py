"""How far an edited model's next-token predictions are from the original's.

Axes: `B` batch, `T` time, `V` vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from svdjax.behaviour.texts import Rows
from svdjax.checkpoint import ModelConfig
from svdjax.model import forward

_BLOCK = 32


class Divergence(NamedTuple):
    """Means over the counted tokens of a text.

    Attributes:
        loss: Next-token cross-entropy of the edited model, nats; NaN where its outputs are not
            finite.
        kl: KL(original || edited) of the next-token distributions, nats; likewise.
        agreement: Percentage of tokens with the same likeliest prediction; likewise.
        original_loss: Cross-entropy of the original, nats.
        tokens: How many tokens count.
    """

    loss: float
    kl: float
    agreement: float
    original_loss: float
    tokens: int


class Divergences:
    """Measures any number of edited models against one original.

    The original stays on the devices. Rows are batched by length, lengths rounded up to multiples
    of 32, so that few shapes are compiled.
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
        """Prepare batches.

        Args:
            original: Its parameters, as `svdjax.checkpoint.load_params` gives them, any float
                dtype; computing is in float32.
            config: Of both models.
            rows: The text.
            mesh: Devices (one axis) to spread batches and parameters over; None for one.
            batch_bytes: For the float32 logits of both models in one batch.
        """
        self.config = config
        # Auto axes whatever the caller's, so that jit divides the work by itself.
        self._mesh = None if mesh is None else jax.sharding.Mesh(mesh.devices, mesh.axis_names)
        self._batches = list(_batches(rows, config, self._devices, batch_bytes))
        self._original = self._put(original)

    @property
    def _devices(self) -> int:
        return 1 if self._mesh is None else self._mesh.size

    def measure(self, edited: Any) -> Divergence:
        """Compare an edited model with the original, parameters like those."""
        params = self._put(edited)
        sums = np.zeros(5, np.float64)
        for tokens, weights in self._batches:
            found = _sums(self._original, params, self.config, *self._spread(tokens, weights))
            # [4, B] by row: added up in float64, whatever the devices work in.
            sums[:4] += np.asarray(found, np.float64).sum(axis=1)
            sums[4] += float(weights.sum())
        loss, kl, agreement, original, count = sums.tolist()
        if not math.isfinite(loss) or not math.isfinite(kl):
            loss = kl = agreement = math.nan
        return Divergence(
            loss / count, kl / count, 100 * agreement / count, original / count, round(count)
        )

    def _put(self, params: Any) -> Any:
        if self._mesh is None:
            return jax.tree.map(jnp.asarray, params)
        return jax.tree.map(lambda leaf: jax.device_put(leaf, self._split(leaf.shape)), params)

    def _split(self, shape: tuple[int, ...]) -> jax.sharding.NamedSharding:
        """A leaf lies split along its longest axis that the devices divide."""
        assert self._mesh is not None
        axes: list[Any] = [None] * len(shape)
        fitting = [i for i, size in enumerate(shape) if size % self._devices == 0]
        if fitting:
            axes[max(fitting, key=lambda i: shape[i])] = self._mesh.axis_names[0]
        return jax.sharding.NamedSharding(self._mesh, jax.sharding.PartitionSpec(*axes))

    def _spread(self, *arrays: np.ndarray) -> Any:
        if self._mesh is None:
            return arrays
        spec = jax.sharding.PartitionSpec(self._mesh.axis_names[0])
        sharding = jax.sharding.NamedSharding(self._mesh, spec)
        return [jax.device_put(array, sharding) for array in arrays]


def _batches(
    rows: Rows, config: ModelConfig, devices: int, batch_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens [B, T + 1] and weights [B, T]: rows of like length together, padded on the right."""
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows.tokens):
        by_length.setdefault(-(-(len(row) - 1) // _BLOCK) * _BLOCK, []).append(index)
    for length, members in sorted(by_length.items()):
        fitting = batch_bytes // (8 * length * config.vocab_size)
        size = min(max(1, fitting), len(members))
        size = -(-size // devices) * devices
        for start in range(0, len(members), size):
            tokens = np.zeros((size, length + 1), np.int32)
            weights = np.zeros((size, length), np.float32)
            for place, index in enumerate(members[start : start + size]):
                row = rows.tokens[index]
                tokens[place, : len(row)] = row
                weights[place, : len(row) - 1] = rows.weights[index]
            yield tokens, weights


@functools.partial(jax.jit, static_argnames=("config",))
def _sums(
    original: Any, edited: Any, config: ModelConfig, tokens: jax.Array, weights: jax.Array
) -> jax.Array:
    """Sums over the counted tokens of each row: loss, KL, agreement, original loss, [4, B]."""
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    def predicted(params: Any) -> jax.Array:
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
        return jax.nn.log_softmax(forward(params, config, inputs).astype(jnp.float32), axis=-1)

    p, q = predicted(original), predicted(edited)

    def loss(log: jax.Array) -> jax.Array:
        return -jnp.take_along_axis(log, targets[..., None], axis=-1)[..., 0]

    # A prediction of probability 0 adds nothing, also where the other's logarithm is -inf.
    kl = jnp.sum(jnp.where(p > -jnp.inf, jnp.exp(p) * (p - q), 0), axis=-1)
    same = (jnp.argmax(p, axis=-1) == jnp.argmax(q, axis=-1)).astype(jnp.float32)
    each = jnp.stack([loss(q), kl, same, loss(p)])
    # Not a product: NaN where nothing counts is not to spread.
    return jnp.sum(jnp.where(weights[None] > 0, each, 0), axis=-1)
