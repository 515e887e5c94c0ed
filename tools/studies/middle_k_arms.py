"""Arms of the study `middle_k`: what is trained in each matrix, and where it starts.

Axes: `L` layers, `I` in, `O` out, `R` = min(I, O), `K` rank.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from svdjax import reference
from svdjax.spectral import Factors, factor_stack, working_precision
from svdjax.spectral.components import PLACES, start_of
from tools.reference.family import read_model
from tools.studies.matrices import PROJECTIONS

Params = Any
Adapters = dict[str, dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Arm:
    """A way to start.

    Attributes:
        name: In the figures.
        kind: ``lora`` (A random, B zero), ``frame`` (A left singular vectors, B zero), ``pissa``
            (components taken out of base) or ``full`` (every entry of the same matrices).
        place: Which components: ``top``, ``middle``, ``bottom`` or ``random``.
        scale: ``top``: with the singular values of the top components instead of their own.
        draw: Number of the random draw, beside the seed's.
    """

    name: str
    kind: str
    place: str = ""
    scale: str = ""
    draw: int = 0


ARMS = {
    arm.name: arm
    for arm in (
        Arm("lora", "lora"),
        Arm("lora_again", "lora", draw=1),
        *(Arm(f"pissa_{place}", "pissa", place) for place in (*PLACES, "random")),
        Arm("pissa_middle_scaled", "pissa", "middle", scale="top"),
        *(Arm(f"frame_{place}", "frame", place) for place in (*PLACES, "random")),
        Arm("full", "full"),
    )
}


@functools.cache
def base() -> tuple[Params, Any, Any]:
    """Parameters (float32), configuration and tokenizer of the reference family's base."""
    return read_model(reference.path("base"))


def kernels(params: Params) -> dict[str, np.ndarray]:
    """The trained matrices of a model, [L, I, O] float64, by projection."""
    return {
        name: np.asarray(params["layers"][module][name]["kernel"], np.float64)
        for name, module in PROJECTIONS.items()
    }


@functools.cache
def frames() -> dict[str, Factors]:
    """Singular values and vectors of base's matrices, float64, by projection."""
    with working_precision("svd_f64"):
        return {
            name: Factors(*(np.asarray(each) for each in jax.device_get(factor_stack(w))))  # type: ignore[arg-type]
            for name, w in kernels(base()[0]).items()
        }


def chosen(place: str, rank: int, factors: Factors, rng: np.random.Generator) -> np.ndarray:
    """Numbers of the components of every layer, [L, K]; random ones are drawn layer by layer."""
    layers, count = factors.s.shape
    if place == "random":
        drawn = [rng.choice(count, rank, replace=False) for _ in range(layers)]
        return np.sort(np.array(drawn), axis=1)
    start = start_of(place, rank, count)
    return np.tile(np.arange(start, start + rank), (layers, 1))


def directions(arm: Arm, rank: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """What an arm's start is made of: ``u`` [L, I, K], ``s`` [L, K], ``v`` [L, O, K].

    For ``lora`` only ``u``, with independent entries of variance 1/I: columns of about unit norm.
    """
    found = {}
    for name, factors in frames().items():
        rng = np.random.default_rng((seed, arm.draw, zlib.crc32(name.encode())))
        layers, inputs, _ = factors.u.shape
        if arm.kind == "lora":
            found[name] = {"u": rng.normal(size=(layers, inputs, rank)) / np.sqrt(inputs)}
            continue
        numbers = chosen(arm.place, rank, factors, rng)
        values = np.take_along_axis(np.asarray(factors.s), numbers, axis=1)
        if arm.scale:
            values = np.asarray(factors.s)[:, :rank]
        found[name] = {
            "u": np.take_along_axis(np.asarray(factors.u), numbers[:, None, :], axis=2),
            "s": values,
            "v": np.take_along_axis(np.asarray(factors.v), numbers[:, None, :], axis=2),
        }
    return found


def start(arm: Arm, rank: int, seed: int) -> tuple[Params, Adapters]:
    """The frozen part of base, and the adapters whose sum with it is base.

    ``lora`` and ``frame``: base itself, and A [L, I, K] with B [L, K, O] zero. ``pissa``: as in
    `svdjax.spectral.components`, ``A = U sqrt(S)``, ``B = sqrt(S) V^T`` and ``W - A B``, formed
    with the rounded A and B. ``full``: base, and a change D [L, I, O] of zero.
    """
    params = base()[0]
    whole = kernels(params)
    if arm.kind == "full":
        return params, {name: {"d": np.zeros(w.shape, np.float32)} for name, w in whole.items()}
    adapters: Adapters = {}
    frozen = {}
    for name, parts in directions(arm, rank, seed).items():
        w = whole[name]
        if arm.kind == "pissa":
            root = np.sqrt(parts["s"])[:, None, :]
            a = (parts["u"] * root).astype(np.float32)
            b = np.swapaxes(parts["v"] * root, 1, 2).astype(np.float32)
            frozen[name] = (w - a.astype(float) @ b.astype(float)).astype(np.float32)
        else:
            a = parts["u"].astype(np.float32)
            b = np.zeros((len(w), rank, w.shape[2]), np.float32)
        adapters[name] = {"a": a, "b": b}
    return replaced(params, frozen), adapters


def replaced(params: Params, new: Mapping[str, Any]) -> Params:
    """The model with other matrices, by projection; everything else is shared."""
    layers = dict(params["layers"])
    for name, kernel in new.items():
        module = PROJECTIONS[name]
        layers[module] = {**layers[module], name: {**layers[module][name], "kernel": kernel}}
    return {**params, "layers": layers}


def product(adapter: Mapping[str, Any]) -> Any:
    """What an adapter adds to its matrix, [L, I, O]."""
    return adapter["d"] if "d" in adapter else adapter["a"] @ adapter["b"]


def merged(frozen: Params, adapters: Mapping[str, Mapping[str, Any]]) -> Params:
    """The model that the frozen part and the adapters make; traceable by jax."""
    new = {
        name: frozen["layers"][PROJECTIONS[name]][name]["kernel"] + product(adapter)
        for name, adapter in adapters.items()
    }
    return replaced(frozen, new)
