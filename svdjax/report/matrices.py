"""Numbers of every matrix of a pair, by column: the page's table, its map and its selection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of the table of all matrices.

    Attributes:
        key: Its name in filters and in the CSV.
        label: Its heading.
        values: Projection to the values of its matrices, [L] or [L, E].
        format: ``fixed`` (4 decimals), ``sig``, ``share`` (of 1, in %), ``p``, ``one`` (decimal)
            or ``text``.
        colours: On the map: ``sequential``; ``diverging``, about `middle`; empty for not on it.
        middle: Where a diverging scale is white.
        help: What it is, in a few words.
    """

    key: str
    label: str
    values: Mapping[str, Sequence[Any]]
    format: str = "sig"
    colours: str = ""
    middle: float = 0.0
    help: str = ""


@dataclass(frozen=True)
class Verdict:
    """An answer on the first screen.

    Attributes:
        key: Its name in summary.json.
        question: What is asked.
        answer: A few words.
        tone: ``good``, ``warn``, ``bad`` or empty: how the answer is coloured.
        detail: The numbers that it rests on.
        matrices: (projection, index of the matrix in it, text) of matrices that it names.
    """

    key: str
    question: str
    answer: str
    tone: str
    detail: str
    matrices: Sequence[tuple[str, int, str]] = ()


@dataclass(frozen=True)
class MatrixData:
    """What a stage knows of every matrix of a pair.

    Attributes:
        columns: Its columns.
        bands: Projection to mean and standard deviation of its null's σ post / σ base, [L, R] each;
            NaN where there is none.
        verdicts: Its answers.
    """

    columns: Sequence[Column] = ()
    bands: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    verdicts: Sequence[Verdict] = ()
