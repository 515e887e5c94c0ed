"""Embeddings and heads of two models: common tokens, the rotation they give, their agreement.

Axes: `V` common tokens, `D` model.

All that is asked of the rows is a function of the Gram matrices ``E_r^T E_r``, ``E_s^T E_s`` and
the product ``E_s^T E_r`` [D, D], which are added up over chunks of tokens.
"""

from __future__ import annotations

import math
import os
import pathlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from svdjax.checkpoint import files
from svdjax.checkpoint.params import check_finite
from svdjax.fingerprint.matching import nearest_rotation
from svdjax.fingerprint.pair import Model, Pair
from svdjax.fingerprint.statistic import Agreement

EMBEDDINGS, HEAD = "embeddings", "head"
_CHUNK = 8192


class Tokens(NamedTuple):
    """Rows of the two embeddings that belong to the same tokens.

    Attributes:
        rows: Rows of the reference and of the suspect, [V] each.
        by: "token" where the tokenizers' strings were matched, "row" where rows were.
    """

    rows: tuple[np.ndarray, np.ndarray]
    by: str


@dataclass(frozen=True)
class RowSums:
    """Second moments of matched rows, apart for tokens of even and odd position in the list.

    Attributes:
        reference: ``E_r^T E_r`` of each half, [2, D, D], float64.
        suspect: ``E_s^T E_s`` of each half, [2, D, D].
        product: ``E_s^T E_r``, [2, D, D].
        count: Rows of each half.
    """

    reference: np.ndarray
    suspect: np.ndarray
    product: np.ndarray
    count: tuple[int, int]
    _roots: dict[int | None, tuple[tuple[np.ndarray, int], ...]] = field(default_factory=dict)

    def agreement(self, rotation: np.ndarray | None, half: int | None = None) -> Agreement:
        """Agreement of E_r and E_s R [V, D], of all tokens or of one half.

        With the polar factor ``P = E G^(-1/2)`` on the numerical rank of ``G = E^T E``,
        ``R^T P_s^T P_r = R^T G_s^(-1/2) (E_s^T E_r) G_r^(-1/2)``.
        """

        def chosen(sums: np.ndarray) -> np.ndarray:
            return sums.sum(axis=0) if half is None else sums[half]

        count = sum(self.count) if half is None else self.count[half]
        if half not in self._roots:
            grams = (chosen(self.reference), chosen(self.suspect))
            self._roots[half] = tuple(_inverse_root(gram, count) for gram in grams)
        (root, rank), (other_root, other_rank) = self._roots[half]
        inner = other_root @ chosen(self.product) @ root
        if rotation is not None:
            inner = rotation.T @ inner
        width, ranks = len(inner), rank * other_rank
        nf = math.nan
        if count >= width and min(rank, other_rank) == width:
            nf = float(np.linalg.norm(inner - np.eye(width))) / width
        return Agreement(
            float(np.trace(inner)), math.sqrt(ranks), ranks / (count * width), nf, (count, width)
        )

    def normalised(self) -> np.ndarray:
        """The product [2, D, D] with E_r and E_s at Frobenius norm 1."""
        squares = [float(np.trace(gram.sum(axis=0))) for gram in (self.reference, self.suspect)]
        size = math.sqrt(squares[0] * squares[1])
        return self.product / size if size else self.product


def _inverse_root(gram: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """``G^(-1/2)`` [D, D] on the numerical rank, and that rank.

    Eigenvalues of a Gram matrix carry errors of eps times the largest: below max(V, D) of those a
    direction is rounding, in singular values below about 1e-6 of the largest.
    """
    values, vectors = np.linalg.eigh(gram)
    least = max(count, len(gram)) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    live = values > least
    vectors = vectors[:, live]
    return (vectors / np.sqrt(values[live])) @ vectors.T, int(live.sum())


@dataclass(frozen=True)
class EmbeddingSums:
    """Second moments of embeddings and heads over common tokens.

    Attributes:
        tokens: The rows that were compared.
        sums: `RowSums` of "embeddings" and, unless both models tie it to the embeddings, "head".
        product: ``sum E_s^T E_r`` over embedding and head of each half of the tokens, each matrix
            at Frobenius norm 1, [2, D, D]. A tied head is the embedding times the last norm's
            scale.
    """

    tokens: Tokens
    sums: dict[str, RowSums]
    product: np.ndarray

    def rotation(self) -> np.ndarray:
        """The orthogonal R [D, D] that takes the suspect's rows nearest to the reference's."""
        return nearest_rotation(self.product.sum(axis=0))

    def agreements(self, rotation: np.ndarray | None) -> dict[str, Agreement]:
        """Agreement of embeddings and head under a rotation that was not found from them.

        Args:
            rotation: R [D, D]; None is the identity.
        """
        return {n: sums.agreement(rotation) for n, sums in self.sums.items() if sum(sums.count)}

    def agreements_in_halves(self) -> dict[str, tuple[Agreement, Agreement]]:
        """Agreement of each half of the tokens under the rotation that the other half gives.

        Empty where half of the tokens are fewer than dimensions: they do not fix a rotation.
        """
        rotations = [nearest_rotation(self.product[1 - half]) for half in (0, 1)]
        return {
            name: (sums.agreement(rotations[0], 0), sums.agreement(rotations[1], 1))
            for name, sums in self.sums.items()
            if min(sums.count) >= len(self.product[0])
        }


def read_embeddings(pair: Pair) -> EmbeddingSums:
    """Second moments of both models' embeddings and heads, over their common tokens.

    Raises:
        InputError: An embedding, a head or the last norm holds NaN or Inf, or cannot be read.
    """
    tokens = common_tokens(pair)
    width = pair.reference.config.hidden_size
    models = [_Rows(model) for model in (pair.reference, pair.suspect)]
    both_tied = all(model.tied for model in models)
    sums: dict[str, RowSums] = {}
    product = np.zeros((2, width, width))
    for name in (EMBEDDINGS, HEAD):
        rows = _row_sums(models, tokens, name, width)
        product += rows.normalised()
        if name == EMBEDDINGS or not both_tied:
            sums[name] = rows
    return EmbeddingSums(tokens, sums, product)


def _row_sums(models: list[_Rows], tokens: Tokens, name: str, width: int) -> RowSums:
    sums = np.zeros((3, 2, width, width))
    for half in (0, 1):
        numbers = [rows[half::2] for rows in tokens.rows]
        for start in range(0, len(numbers[0]), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            reference, suspect = (model.rows(n[chunk], name) for model, n in zip(models, numbers))
            sums[0, half] += reference.T @ reference
            sums[1, half] += suspect.T @ suspect
            sums[2, half] += suspect.T @ reference
    count = len(tokens.rows[0])
    return RowSums(sums[0], sums[1], sums[2], ((count + 1) // 2, count // 2))


class _Rows:
    """Embedding and head of one model, in storage dtype; rows as float64 when asked for."""

    def __init__(self, model: Model):
        def read(name: str) -> np.ndarray:
            tensor = model.checkpoint.read(name)
            check_finite(model.checkpoint, name, tensor)
            return tensor

        self.embedding = read("model.embed_tokens.weight")
        self.tied = model.config.tie_word_embeddings
        self.head = self.embedding if self.tied else read("lm_head.weight")
        scale = read("model.norm.weight").astype(np.float64)
        self.scale = scale + model.config.norm_plus_one

    def rows(self, numbers: np.ndarray, name: str) -> np.ndarray:
        """[V, D] of "embeddings" or "head"; the latter with the last norm's scale folded in."""
        if name == HEAD:
            return self.head[numbers].astype(np.float64) * self.scale
        return self.embedding[numbers].astype(np.float64)


def common_tokens(pair: Pair) -> Tokens:
    """Tokens matched by their strings if both have a tokenizer.json, else by their rows."""
    sizes = pair.reference.config.vocab_size, pair.suspect.config.vocab_size
    tables = [_vocabulary(model.checkpoint.tokenizer) for model in (pair.reference, pair.suspect)]
    if all(tables):
        ours, theirs = tables
        both = sorted(
            (ours[token], theirs[token])
            for token in ours.keys() & theirs.keys()
            if ours[token] < sizes[0] and theirs[token] < sizes[1]
        )
        rows = np.array(both, np.int64).reshape(-1, 2)
        return Tokens((rows[:, 0], rows[:, 1]), "token")
    rows = np.arange(min(sizes))
    return Tokens((rows, rows), "row")


def _vocabulary(path: pathlib.Path) -> dict[str, int]:
    """Token strings to rows; empty where there is no tokenizer.json that can be read.

    Raises:
        InputError: It is no regular file, or a link that leads out of the directory.
    """
    from tokenizers import Tokenizer

    if not os.path.lexists(path / "tokenizer.json"):
        return {}
    file = files.checked_path(path, "tokenizer.json")
    try:
        return Tokenizer.from_file(str(file)).get_vocab(with_added_tokens=True)
    # It raises bare Exceptions, whatever is wrong; the rows then have to do.
    except Exception:
        return {}
