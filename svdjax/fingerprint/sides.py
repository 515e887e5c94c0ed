"""The two checkpoints: what of them can be compared, and their blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

import jax
import numpy as np

from svdjax.checkpoint import FAMILIES, Checkpoint, ModelConfig, open_checkpoint
from svdjax.checkpoint.files import listed
from svdjax.checkpoint.matching import grouped, match_family
from svdjax.checkpoint.settings import read_config
from svdjax.errors import InputError
from svdjax.fingerprint.aligned import Factored
from svdjax.fingerprint.canonical import canonical
from svdjax.fingerprint.layer import ATTENTION, FEED_FORWARD, Layer, read_layer
from svdjax.fingerprint.statistic import polar_stack


@dataclass(frozen=True)
class Side:
    """A checkpoint whose tensors are those of its family.

    Attributes:
      checkpoint: the files.
      config: their configuration.
      notes: what a reader should know.
    """

    checkpoint: Checkpoint
    config: ModelConfig
    notes: tuple[str, ...]

    def layer(self, index: int) -> Layer:
        """A block in canonical form, float64."""
        return canonical(read_layer(self.checkpoint, self.config, index))


@dataclass(frozen=True)
class Pair:
    """Two sides and what they have in common.

    Attributes:
      projections: those that can be compared.
      notes: what cannot, and what differs.
    """

    reference: Side
    suspect: Side
    projections: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def open_side(source: str) -> Side:
    """Open a checkpoint and check its headers.

    Raises:
      InputError: it is none that can be read, or not of a family that is known.
    """
    checkpoint = open_checkpoint(source)
    kind = checkpoint.config.get("model_type")
    if kind not in FAMILIES:
        raise InputError(
            f"{checkpoint.path}: cannot be compared because what its tensors do is not known: "
            f"model_type is {kind!r}, expected one of {', '.join(FAMILIES)}"
        )
    config, notes = read_config(checkpoint)
    faults, _ = match_family(checkpoint, config)
    if faults:
        raise InputError(f"{checkpoint.path} cannot be compared because {listed(grouped(faults))}")
    return Side(checkpoint, config, (*checkpoint.notes, *notes))


def open_pair(reference: str, suspect: str) -> Pair:
    """Open both and find out what can be compared.

    Raises:
      InputError: one cannot be read, or nothing can be compared.
    """
    sides, faults = [], []
    for source in (reference, suspect):
        try:
            sides.append(open_side(source))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    return _pair(*sides)


def _pair(reference: Side, suspect: Side) -> Pair:
    a, b = reference.config, suspect.config
    notes = [*reference.notes, *suspect.notes]

    def unlike(*names: str) -> str:
        found = [name for name in names if getattr(a, name) != getattr(b, name)]
        return ", ".join(f"{n} is {getattr(a, n)} and {getattr(b, n)}" for n in found)

    where = f"{reference.checkpoint.path} and {suspect.checkpoint.path} cannot be compared because"
    if why := unlike("hidden_size"):
        raise InputError(
            f"{where} {why}: no rotation takes one residual stream to the other; expected models "
            "of one width"
        )
    attention = unlike("num_heads", "num_kv_heads", "head_dim")
    feed_forward = unlike("intermediate_size")
    if attention and feed_forward:
        raise InputError(f"{where} {attention}, {feed_forward}: no projection has the same shape")
    projections = (*(() if attention else ATTENTION), *(() if feed_forward else FEED_FORWARD))
    if why := attention or feed_forward:
        part = "attention" if attention else "the feed-forward part"
        notes.append(f"{part} is not compared: {why}")
    if a.family != b.family:
        notes.append(f"the families differ ({a.family} and {b.family}); roles are matched by name")
    if why := unlike("num_layers", "vocab_size", "tie_word_embeddings", "rope", "rms_norm_eps"):
        notes.append(f"the configurations differ: {why}")
    return Pair(reference, suspect, projections, tuple(dict.fromkeys(notes)))


def factor_both(
    layers: tuple[Layer, Layer], mesh: jax.sharding.Mesh | None, names: tuple[str, ...]
) -> tuple[Factored, Factored]:
    """Polar factors of two blocks, matrices of one shape together in a stack."""
    matrices = [layer.matrices() for layer in layers]
    shapes: dict[tuple[int, ...], list[tuple[int, str]]] = {}
    for side in range(2):
        for name in names:
            shapes.setdefault(matrices[side][name].shape, []).append((side, name))
    polar: list[dict[str, np.ndarray]] = [{}, {}]
    ranks: list[dict[str, int]] = [{}, {}]
    sigma: list[dict[str, np.ndarray]] = [{}, {}]
    directions: list[dict[str, tuple[np.ndarray, np.ndarray]]] = [{}, {}]
    for members in shapes.values():
        stack = np.stack([matrices[side][name] for side, name in members])
        found = polar_stack(stack, mesh, [layers[side].eps for side, _ in members])
        for index, (side, name) in enumerate(members):
            polar[side][name] = found.p[index]
            ranks[side][name] = int(found.rank[index])
            sigma[side][name] = found.sigma[index]
            directions[side][name] = found.u[index], found.v[index]
    reference, suspect = (
        Factored(
            layer,
            layer.like(polar[side]),
            ranks[side],
            sigma[side],
            directions[side],
            layer.like({name: u @ v.T for name, (u, v) in directions[side].items()}),
        )
        for side, layer in enumerate(layers)
    )
    return reference, suspect
