"""How models did on benchmarks as tables: all of it, and the paper's Tables 1, 2, 6, 7 and 8."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from svdjax.report.cells import Head, Row, TableView
from svdjax.report.numbers import MISSING, decimal, plus_minus
from svdjax.report.paper_answers import paper_scores
from svdjax.report.tables import Table

if TYPE_CHECKING:
    from svdjax.engine.behaviour.results import EvaluationResults

ANSWERS = (
    *("model", "title", "benchmark", "questions", "repeats"),
    *("accuracy_mean", "accuracy_std", "tokens_mean", "tokens_std", "stopped", "not_compared"),
    *("paper_accuracy_mean", "paper_accuracy_std", "paper_tokens_mean", "paper_tokens_std"),
)
_PAPER = tuple(name for name in ANSWERS if name.startswith("paper_"))


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables, for whatever models were evaluated.

    Attributes:
      number: in the paper.
      title: what it shows.
      measure: ``accuracy`` or ``tokens``.
      models: the rows of every pair.
    """

    number: str
    title: str
    measure: str
    models: tuple[str, ...]


_RESTORED = ("restoration_V_SA", "restoration_U_SA", "restoration_V_FFN", "restoration_U_FFN")
PAPER_TABLES = (
    PaperTable("1", "replaced singular values, pass@1", "accuracy", ("base", "post", "replaced")),
    PaperTable("2", "restoration in attention, pass@1", "accuracy", ("post", "restoration_V_SA")),
    PaperTable("6", "replaced singular values, tokens", "tokens", ("base", "post", "replaced")),
    PaperTable("7", "restoration, pass@1", "accuracy", ("post", *_RESTORED)),
    PaperTable("8", "restoration, tokens", "tokens", ("post", *_RESTORED)),
)


def answers_table(results: EvaluationResults, paper: str | None) -> Table:
    """Returns the table of a pair: one row per model and benchmark, the paper's values beside."""
    return Table("answers", ANSWERS, tuple(_rows(results, paper)))


def all_answers_table(
    evaluations: Mapping[str, EvaluationResults], papers: Mapping[str, str]
) -> Table:
    """Returns the index's table: the same of all pairs."""
    rows = [
        {"pair": pair, **row}
        for pair, one in evaluations.items()
        for row in _rows(one, papers.get(pair))
    ]
    return Table("answers", ("pair", *ANSWERS), tuple(rows))


def _rows(results: EvaluationResults, paper: str | None) -> Iterable[dict[str, Any]]:
    beside = paper_scores(paper)
    for model, scores in results.scores.items():
        for benchmark, one in scores.items():
            # The paper asks MMLU's dev questions.
            other = benchmark == "mmlu" and results.settings.get("split") != "dev"
            value = None if other else beside.get((model, benchmark))
            yield {
                "model": model,
                "title": results.titles.get(model, model),
                "benchmark": benchmark,
                "questions": one.n,
                "repeats": one.repeats,
                "accuracy_mean": one.accuracy_mean,
                "accuracy_std": one.accuracy_std,
                "tokens_mean": one.tokens_mean,
                "tokens_std": one.tokens_std,
                "stopped": one.stopped,
                "not_compared": sum(one.not_compared.values()),
                **{k: getattr(value, k.removeprefix("paper_"), math.nan) for k in _PAPER},
            }


def matrix(
    table: Table,
    title: str,
    caption: str,
    measure: str,
    models: Sequence[str] | None = None,
    *,
    folded: bool = False,
) -> TableView:
    """One row per pair (if there are any) and model, one column per benchmark; the paper's beside.

    Args:
      table: from `answers_table` or `all_answers_table`.
      title: of the view.
      caption: likewise.
      measure: ``accuracy``, ``tokens`` or ``stopped``.
      models: which; all if not given.
      folded: shown only when asked for.
    """
    chosen = [row for row in table.rows if models is None or row["model"] in models]
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in chosen))
    paper = f"paper_{measure}_mean"
    beside = [
        name
        for name in benchmarks
        if any(
            row["benchmark"] == name and math.isfinite(row.get(paper, math.nan)) for row in chosen
        )
    ]
    heads, rows = [Head("model", text=True)], {}
    pairs = "pair" in table.columns
    if pairs:
        heads.insert(0, Head("pair", text=True))
    for name in benchmarks:
        heads.append(Head(name))
        if name in beside:
            heads.append(Head(f"{name}, paper"))
    for row in chosen:
        key = (*((row["pair"],) if pairs else ()), row["title"])
        rows.setdefault(key, {})[row["benchmark"]] = row
    return TableView(
        title=title,
        caption=caption,
        heads=tuple(heads),
        rows=tuple(
            (*key, *_cells(found, benchmarks, beside, measure)) for key, found in rows.items()
        ),
        hidden=0,
        file=f"tables/{table.name}.csv",
        folded=folded,
    )


def _cells(
    found: Mapping[str, Row], benchmarks: Sequence[str], beside: Sequence[str], measure: str
) -> Iterable[str]:
    for name in benchmarks:
        row = found.get(name)
        yield _cell(row, measure) if row else MISSING
        if name in beside:
            yield _cell(row, f"paper_{measure}") if row else MISSING


def _cell(row: Row, measure: str) -> str:
    if measure == "stopped":
        return decimal(row["stopped"], 1)
    return plus_minus(row[f"{measure}_mean"], row[f"{measure}_std"], 2)
