"""The paper's own pass@1 and output lengths, to print beside what is measured.

Source: arXiv 2509.17866, Tables 1, 2, 5 and 7 (pass@1 in %) and 6 and 8 (output tokens): mean and
standard deviation of three repeats. They stand in paper_answers.csv, under the names that models
and benchmarks have here; of MMLU the paper asks the dev split.
"""

from __future__ import annotations

import csv
import functools
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass

_FILE = pathlib.Path(__file__).with_name("paper_answers.csv")


@dataclass(frozen=True)
class PaperScore:
    """One cell of Tables 1, 2, 5 or 7 with that of 6 or 8."""

    accuracy_mean: float
    accuracy_std: float
    tokens_mean: float
    tokens_std: float


def paper_scores(key: str | None) -> Mapping[tuple[str, str], PaperScore]:
    """The paper's values for a key such as ``Qwen2.5-Math-1.5B/instruct``.

    Returns:
        (model, benchmark) to value, ``post`` being the original; empty for other keys.
    """
    return _read().get(key or "", {})


@functools.cache
def _read() -> dict[str, dict[tuple[str, str], PaperScore]]:
    found: dict[str, dict[tuple[str, str], PaperScore]] = {}
    with _FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            values = {name: float(row[name]) for name in PaperScore.__dataclass_fields__}
            cell = (row["model"], row["benchmark"])
            found.setdefault(row["models"], {})[cell] = PaperScore(**values)
    return found
