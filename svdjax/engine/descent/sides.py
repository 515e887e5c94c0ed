"""The two checkpoints: what of them can be compared, their blocks, their tokens.

Axes: `D` model, `V` vocabulary.
"""

from __future__ import annotations

import pathlib
from dataclasses import dataclass, field

import jax
import numpy as np

from svdjax.checkpoint import FAMILIES, Checkpoint, ModelConfig, open_checkpoint
from svdjax.checkpoint.files import listed
from svdjax.checkpoint.matching import grouped, match_family
from svdjax.checkpoint.params import check_finite
from svdjax.checkpoint.settings import read_config
from svdjax.descent import Factored, Layer, canonical, polar_stack, read_layer
from svdjax.descent.layer import ATTENTION, FEED_FORWARD
from svdjax.errors import InputError

_CHUNK = 8192


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
    for members in shapes.values():
        found = polar_stack(np.stack([matrices[side][name] for side, name in members]), mesh)
        for index, (side, name) in enumerate(members):
            polar[side][name] = found.p[index]
            ranks[side][name] = int(found.rank[index])
            sigma[side][name] = found.sigma[index]
    one, other = (
        Factored(layer, layer.like(polar[side]), ranks[side], sigma[side])
        for side, layer in enumerate(layers)
    )
    return one, other


@dataclass(frozen=True)
class Tokens:
    """Rows of the two embeddings that belong to the same tokens.

    Attributes:
      rows: of the reference and of the suspect, [V] each.
      by: "token" where the tokenizers' strings were matched, "row" where rows were.
    """

    rows: tuple[np.ndarray, np.ndarray]
    by: str


def common_tokens(pair: Pair) -> Tokens:
    """Match tokens by their strings if both have a tokenizer.json, else by their rows."""
    sizes = pair.reference.config.vocab_size, pair.suspect.config.vocab_size
    tables = [_vocabulary(side.checkpoint.tokenizer) for side in (pair.reference, pair.suspect)]
    if all(tables):
        one, other = tables
        both = sorted(
            (one[token], other[token])
            for token in one.keys() & other.keys()
            if one[token] < sizes[0] and other[token] < sizes[1]
        )
        rows = np.array(both, np.int64).reshape(-1, 2)
        return Tokens((rows[:, 0], rows[:, 1]), "token")
    rows = np.arange(min(sizes))
    return Tokens((rows, rows), "row")


def _vocabulary(path: pathlib.Path) -> dict[str, int]:
    """Token strings to rows; empty where there is no tokenizer.json that can be read."""
    from tokenizers import Tokenizer

    file = path / "tokenizer.json"
    if not file.is_file():
        return {}
    try:
        return Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    # It raises bare Exceptions, whatever is wrong; the rows then have to do.
    except Exception:
        return {}


def token_product(pair: Pair, tokens: Tokens) -> np.ndarray:
    """``sum E_s^T E_r`` over embedding and head [D, D], each at Frobenius norm 1.

    The head has the last norm's scale folded in; a tied one is the embedding times that scale.
    """
    width = pair.reference.config.hidden_size
    total = np.zeros((width, width))
    ends = [_Ends(side) for side in (pair.reference, pair.suspect)]
    for head in (False, True):
        product, squares = np.zeros((width, width)), [0.0, 0.0]
        for start in range(0, len(tokens.rows[0]), _CHUNK):
            part = slice(start, start + _CHUNK)
            reference, suspect = (
                end.rows(rows[part], head) for end, rows in zip(ends, tokens.rows)
            )
            product += suspect.T @ reference
            squares[0] += float(np.sum(reference**2))
            squares[1] += float(np.sum(suspect**2))
        size = np.sqrt(squares[0] * squares[1])
        total += product / size if size else 0.0
    return total


class _Ends:
    """Embedding and head of one side, in storage dtype; rows as float64 when asked for."""

    def __init__(self, side: Side):
        def read(name: str) -> np.ndarray:
            tensor = side.checkpoint.read(name)
            check_finite(side.checkpoint, name, tensor)
            return tensor

        self.embedding = read("model.embed_tokens.weight")
        tied = side.config.tie_word_embeddings
        self.head = self.embedding if tied else read("lm_head.weight")
        scale = read("model.norm.weight").astype(np.float64)
        self.scale = scale + side.config.norm_plus_one

    def rows(self, numbers: np.ndarray, head: bool) -> np.ndarray:
        """[V, D] of embedding or head."""
        if head:
            return self.head[numbers].astype(np.float64) * self.scale
        return self.embedding[numbers].astype(np.float64)
