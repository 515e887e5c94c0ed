"""Two checkpoints: what of them can be compared, and their blocks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from svdjax.checkpoint import FAMILIES, Checkpoint, ModelConfig, open_checkpoint
from svdjax.checkpoint.completeness import kind_of
from svdjax.checkpoint.files import listed
from svdjax.checkpoint.matching import grouped, match_family
from svdjax.checkpoint.settings import read_config
from svdjax.errors import InputError
from svdjax.fingerprint.canonical import canonical
from svdjax.fingerprint.layer import ATTENTION, FEED_FORWARD, Layer, read_layer

_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Model:
    """A checkpoint whose tensors are those of its family.

    Attributes:
        checkpoint: The files.
        config: Their configuration.
        notes: Remarks for the reader.
        headless: It has no output head where its configuration has one.
    """

    checkpoint: Checkpoint
    config: ModelConfig
    notes: tuple[str, ...]
    headless: bool = False

    def layer(self, index: int) -> Layer:
        """A block in canonical form, float64."""
        return canonical(read_layer(self.checkpoint, self.config, index))


@dataclass(frozen=True)
class Pair:
    """Two models and what they have in common.

    Attributes:
        reference: The model that may be an origin.
        suspect: The model that is asked about.
        projections: Names of the projections that can be compared.
        notes: What cannot, and what differs.
    """

    reference: Model
    suspect: Model
    projections: tuple[str, ...]
    notes: tuple[str, ...]


def open_model(source: str) -> Model:
    """Opens a checkpoint and checks its headers.

    Raises:
        InputError: It cannot be read, or is not of a family that is known.
    """
    checkpoint = open_checkpoint(source)
    kind = kind_of(checkpoint)
    if kind not in FAMILIES:
        raise InputError(
            f"{checkpoint.path}: cannot be compared because what its tensors do is not known: "
            f"model_type is {kind!r}, expected one of {', '.join(FAMILIES)}"
        )
    config, notes = read_config(checkpoint)
    headless = not config.tie_word_embeddings and _HEAD not in checkpoint
    if headless:
        config = dataclasses.replace(config, tie_word_embeddings=True)
        notes.append(f"{checkpoint.path} has no {_HEAD}: heads are not compared")
    faults, left_out = match_family(checkpoint, config, strict=False)
    if faults:
        raise InputError(f"{checkpoint.path} cannot be compared because {listed(grouped(faults))}")
    strange = [name for name, why in left_out.items() if why.startswith("not part of")]
    if strange:
        notes.append(
            f"{checkpoint.path}: {len(strange)} tensors, such as {strange[0]}, are not part of a "
            f"{config.family} model, and not compared"
        )
    return Model(checkpoint, config, (*checkpoint.notes, *notes), headless)


def open_pair(reference: str, suspect: str) -> Pair:
    """Opens two checkpoints and finds what of them can be compared.

    Raises:
        InputError: One cannot be read, or nothing can be compared.
    """
    models, faults = [], []
    for source in (reference, suspect):
        try:
            models.append(open_model(source))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    return _pair(*models)


def _tied(model: Model) -> Model:
    """The model with its embeddings as its head."""
    return dataclasses.replace(
        model, config=dataclasses.replace(model.config, tie_word_embeddings=True)
    )


def _pair(reference: Model, suspect: Model) -> Pair:
    notes = [*reference.notes, *suspect.notes]
    if reference.headless or suspect.headless:
        reference, suspect = _tied(reference), _tied(suspect)
    a, b = reference.config, suspect.config

    def unlike(*names: str) -> str:
        different = [name for name in names if getattr(a, name) != getattr(b, name)]
        return ", ".join(f"{n} is {getattr(a, n)} and {getattr(b, n)}" for n in different)

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
