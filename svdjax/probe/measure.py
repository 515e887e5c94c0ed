"""What some models showed while they read the same prompts, and how alike they are inside."""

from __future__ import annotations

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
from svdjax.engine.progress import note
from svdjax.model import shard_params
from svdjax.probe.cka import cka_from_grams, grams
from svdjax.probe.probing import probe
from svdjax.probe.results import CKA, ENTROPY, MAPS

# Maps take [blocks, tokens, tokens]; of longer prompts nobody sees the cells anyway.
_MOST_MAPPED = 512
_SAMPLES = ("prompt", "position")


@dataclass(frozen=True)
class Shown:
    """What a model showed, as far as it is kept.

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
        """As an npz holds it."""
        found = {"last": self.last, "mean": self.mean}
        found |= {f"gram_{name}": value for name, value in self.grams.items()}
        return found | ({} if self.maps is None else {"maps": self.maps})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Shown:
        """From what `arrays` gave.

        Raises:
          KeyError: an array is missing.
        """
        names = {f"gram_{name}": name for name in _SAMPLES}
        kept = {names[key]: value for key, value in arrays.items() if key in names}
        return cls(arrays["last"], arrays["mean"], kept, arrays.get("maps"))


def probed(
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
) -> Shown:
    """Lets a model read prompts.

    Args:
      label: what progress calls it.
      params: as `load_params` gives them, in any float dtype.
      config: the model.
      prompts: token ids of each.
      mesh: from `decoder_mesh`.
      positions: leading positions that are a sample each, at most the shortest prompt's.
      maps: also keep the attention maps of the first prompt, if it is not too long to be seen.
      dtype: of weights and computation.
      check: told how far it is; may raise to stop.
    """
    kind = jnp.dtype(dtype)
    mapped = maps and len(prompts[0]) <= _MOST_MAPPED
    if maps and not mapped:
        note(f"{label}: no attention maps of a prompt longer than {_MOST_MAPPED} tokens")
    bar = tqdm.tqdm(
        total=len(prompts),
        desc=f"probing {label}",
        file=sys.stderr,
        leave=False,
        disable=not sys.stderr.isatty(),
    )
    with bar:

        def done(count: int) -> None:
            bar.update(count - bar.n)
            check(f"while {label} read the prompts")

        found = probe(
            shard_params(params, mesh, kind),
            config,
            prompts,
            mesh=mesh,
            positions=positions,
            maps=mapped,
            dtype=kind,
            done=done,
        )
    note(f"probed {label}: {len(prompts)} prompt(s)")
    hidden = dict(zip(_SAMPLES, (found.tokens, found.positions), strict=True))
    kept = {name: grams(values) for name, values in hidden.items() if values.shape[1] > 1}
    return Shown(found.entropy_last, found.entropy_mean, kept, found.maps)


class Probes:
    """What models showed, one after the other; all are held against the first.

    Attributes:
      entropy: "<model>/last" and "<model>/mean" to [blocks, heads], nats.
      cka: "<model>" and "<model>/<kind>", kinds prompt, position and both with _debiased, to
        [blocks of the first model, blocks]; NaN where there are too few samples.
      maps: model to [blocks, T, T].
    """

    def __init__(self, kind: str):
        """`kind` of CKA is what stands under "<model>"."""
        self.kind = kind
        self.entropy: dict[str, np.ndarray] = {}
        self.cka: dict[str, np.ndarray] = {}
        self.maps: dict[str, np.ndarray] = {}
        self._first: Shown | None = None

    def add(self, name: str, shown: Shown) -> None:
        """Takes up a model."""
        self._first = self._first or shown
        self.entropy |= {f"{name}/last": shown.last, f"{name}/mean": shown.mean}
        if shown.maps is not None:
            self.maps[name] = shown.maps
        kinds = {kind: self._compared(shown, *kind) for kind in _kinds()}
        for (samples, debiased), values in kinds.items():
            self.cka[f"{name}/{samples}{'_debiased' if debiased else ''}"] = values
        self.cka[name] = self.cka[f"{name}/{self.kind}"]

    def write(self, directory: pathlib.Path) -> None:
        """Writes entropy.npz, cka.npz and, where there are any, maps.npz."""
        write_npz(directory / ENTROPY, self.entropy)
        write_npz(directory / CKA, self.cka)
        if self.maps:
            write_npz(directory / MAPS, self.maps)

    def _compared(self, shown: Shown, samples: str, debiased: bool) -> np.ndarray:
        assert self._first is not None
        first, mine = self._first.grams.get(samples), shown.grams.get(samples)
        if first is None or mine is None or first.shape[1] < (4 if debiased else 2):
            return np.full((len(self._first.last), len(shown.last)), np.nan)
        return cka_from_grams(first, mine, debiased=debiased)


def _kinds() -> list[tuple[str, bool]]:
    return [(samples, debiased) for samples in _SAMPLES for debiased in (False, True)]
