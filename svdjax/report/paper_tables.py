"""The paper's own values of its tables, to print beside what is measured.

Source: "Understanding Post-Training Structural Changes in Large Language Models", arXiv 2509.17866.
paper_alpha.csv holds Table 3 (mean and standard deviation over all layers of the scaling of the top
90 % of the singular values) and Table 4 (the rounded factors alpha'), paper_answers.csv Tables 1,
2, 5 and 7 (pass@1 in %) and 6 and 8 (output tokens), mean and standard deviation of three repeats;
of MMLU the paper asks the dev split. Models are named ``<base model>/<variant>``; ``base'`` is a
model of the same architecture pre-trained apart, for which Table 4 has no entry.
"""

from __future__ import annotations

import csv
import functools
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "arXiv 2509.17866"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class PaperColumn:
    """A row of Table 3 with its row of Table 4, by projection name.

    Attributes:
        key: ``<base model>/<variant>``.
        alpha: Projection to (mean, std) of Table 3.
        alpha_prime: Projection to the factor of Table 4; empty for ``base'``.
    """

    key: str
    alpha: Mapping[str, tuple[float, float]]
    alpha_prime: Mapping[str, float]


@dataclass(frozen=True)
class PaperScore:
    """A cell of Tables 1, 2, 5 or 7 with that of Table 6 or 8."""

    accuracy_mean: float
    accuracy_std: float
    tokens_mean: float
    tokens_std: float


def paper_column(key: str | None) -> PaperColumn | None:
    """The paper's alpha for a key such as ``Qwen2.5-Math-1.5B/instruct``; None for other keys."""
    rows = _rows("paper_alpha.csv").get(key or "")
    if rows is None:
        return None
    return PaperColumn(
        key=rows[0]["models"],
        alpha={r["projection"]: (float(r["alpha_mean"]), float(r["alpha_std"])) for r in rows},
        alpha_prime={r["projection"]: float(r["alpha_prime"]) for r in rows if r["alpha_prime"]},
    )


def paper_keys() -> tuple[str, ...]:
    """Every key that the paper's Table 3 has a row for."""
    return tuple(_rows("paper_alpha.csv"))


def paper_scores(key: str | None) -> Mapping[tuple[str, str], PaperScore]:
    """The paper's scores for a key such as ``Qwen2.5-Math-1.5B/instruct``.

    Returns:
        (model, benchmark) to score, ``post`` being the original; empty for other keys.
    """
    return {
        (row["model"], row["benchmark"]): PaperScore(
            **{name: float(row[name]) for name in PaperScore.__dataclass_fields__}
        )
        for row in _rows("paper_answers.csv").get(key or "", ())
    }


@functools.cache
def _rows(name: str) -> dict[str, list[dict[str, str]]]:
    """Rows of a file beside this one, by their models."""
    rows: dict[str, list[dict[str, str]]] = {}
    with pathlib.Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            rows.setdefault(row["models"], []).append(row)
    return rows
