"""Attention entropy, CKA and attention maps of models that read the same prompts."""

from __future__ import annotations

import itertools
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import tqdm
from jax.sharding import Mesh

from svdjax.atomic import write_npz
from svdjax.checkpoint import ModelConfig
from svdjax.engine.progress import note, shows_bars
from svdjax.model import shard_params
from svdjax.probe.activations import probe
from svdjax.probe.cka import cka_from_grams, grams
from svdjax.probe.job import SAMPLES
from svdjax.probe.linearised import Linearised, linearise
from svdjax.probe.results import CKA, ENTROPY, MAPS

# Maps take [blocks, tokens, tokens]; of longer prompts nobody sees the cells anyway.
_MOST_MAPPED = 512


@dataclass(frozen=True)
class ModelProbe:
    """Attention entropies, Gram matrices and attention maps of one model.

    Attributes:
        last: [L, N] float64, nats: entropy of the last position's attention, mean over the prompts.
        mean: [L, N] float64: the same of all positions.
        grams: "prompt" and "position", where there are two samples, to the Gram matrices
            [L, n, n] float64 of the centred hidden states after each block.
        maps: [L, T, T]: the first prompt's attention, mean over the heads; None if not kept.
    """

    last: np.ndarray
    mean: np.ndarray
    grams: Mapping[str, np.ndarray]
    maps: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Arrays for an npz."""
        arrays = {"last": self.last, "mean": self.mean}
        arrays |= {f"gram_{samples}": gram for samples, gram in self.grams.items()}
        return arrays | ({} if self.maps is None else {"maps": self.maps})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> ModelProbe:
        """The probe whose `arrays` these are.

        Raises:
            KeyError: An array is missing.
        """
        grams = {s: arrays[f"gram_{s}"] for s in SAMPLES if f"gram_{s}" in arrays}
        return cls(arrays["last"], arrays["mean"], grams, arrays.get("maps"))


def probe_model(
    label: str,
    params: Any,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    mesh: Mesh,
    positions: int,
    maps: bool,
    dtype: str,
    check: Callable[[str], None],
) -> ModelProbe:
    """Entropies, Gram matrices and maps of a model that reads prompts, with a progress bar.

    Args:
        label: The model's name for progress.
        params: Weights from `load_params`, in any float dtype.
        config: The model.
        prompts: Token ids of each.
        mesh: Devices from `decoder_mesh`.
        positions: Leading positions that are a sample each, at most the shortest prompt's.
        maps: Also keep the attention maps of the first prompt, if it is not too long to be seen.
        dtype: Dtype of weights and computation.
        check: Called between batches; may raise to stop.
    """
    mapped = maps and len(prompts[0]) <= _MOST_MAPPED
    if maps and not mapped:
        note(f"{label}: no attention maps of a prompt longer than {_MOST_MAPPED} tokens")
    with _bar(f"probing {label}", len(prompts)) as bar:

        def done(count: int) -> None:
            bar.update(count - bar.n)
            check(f"while {label} read the prompts")

        activations = probe(
            shard_params(params, mesh, jnp.dtype(dtype)),
            config,
            prompts,
            mesh=mesh,
            positions=positions,
            maps=mapped,
            dtype=jnp.dtype(dtype),
            done=done,
        )
    hidden = {"prompt": activations.tokens, "position": activations.positions}
    return ModelProbe(
        activations.entropy_last,
        activations.entropy_mean,
        {samples: grams(x) for samples, x in hidden.items() if x.shape[1] > 1},
        activations.maps,
    )


def linearise_model(
    label: str,
    base: Any,
    params: Any,
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    *,
    mesh: Mesh,
    check: Callable[[str], None],
) -> Linearised:
    """How far a model's logits are those of another one linearised, with a progress bar.

    In float32, whatever the decoder's dtype: differences of logits would drown in bfloat16.

    Args:
        label: The model's name for progress.
        base: Weights around which is linearised, from `load_params`, or on the devices.
        params: The model's weights.
        config: Both models.
        prompts: Token ids of each.
        mesh: Devices from `decoder_mesh`.
        check: Called between batches; may raise to stop.
    """
    with _bar(f"linearising {label}", len(prompts)) as bar:

        def done(count: int) -> None:
            bar.update(count - bar.n)
            check(f"while {label} was compared with its linearisation")

        return linearise(
            shard_params(base, mesh, jnp.float32),
            shard_params(params, mesh, jnp.float32),
            config,
            prompts,
            mesh=mesh,
            done=done,
        )


def _bar(label: str, total: int) -> tqdm.tqdm[Any]:
    return tqdm.tqdm(
        total=total, desc=label, file=sys.stderr, leave=False, disable=not shows_bars()
    )


class Probes:
    """Entropies, CKA and maps of several models; CKA is that with the first.

    Attributes:
        kind: The kind of CKA that stands under "<model>".
        entropy: "<model>/last" and "<model>/mean" to [blocks, heads], nats.
        cka: "<model>" and "<model>/<kind>", kinds prompt, position and both with _debiased, to
            [blocks of the first model, blocks]; NaN where there are too few samples.
        maps: "<model>" to [blocks, T, T].
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.entropy: dict[str, np.ndarray] = {}
        self.cka: dict[str, np.ndarray] = {}
        self.maps: dict[str, np.ndarray] = {}
        self._first: ModelProbe | None = None

    def add(self, name: str, model: ModelProbe) -> None:
        """Adds the arrays of a model, compared with the first one added."""
        first = self._first = self._first or model
        self.entropy |= {f"{name}/last": model.last, f"{name}/mean": model.mean}
        if model.maps is not None:
            self.maps[name] = model.maps
        for samples, debiased in itertools.product(SAMPLES, (False, True)):
            x, y = first.grams.get(samples), model.grams.get(samples)
            if x is None or y is None or x.shape[1] < (4 if debiased else 2):
                values = np.full((len(first.last), len(model.last)), np.nan)
            else:
                values = cka_from_grams(x, y, debiased=debiased)
            self.cka[f"{name}/{samples}{'_debiased' * debiased}"] = values
        self.cka[name] = self.cka[f"{name}/{self.kind}"]

    def write(self, directory: pathlib.Path) -> None:
        """Writes entropy.npz, cka.npz and, where there are any, maps.npz."""
        write_npz(directory / ENTROPY, self.entropy)
        write_npz(directory / CKA, self.cka)
        if self.maps:
            write_npz(directory / MAPS, self.maps)
