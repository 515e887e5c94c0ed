"""Tables of answers: all of them, and the paper's Tables 1, 2, 6, 7 and 8."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from svdjax.report.cells import Head, Row, TableView
from svdjax.report.numbers import MISSING, decimal, plus_minus
from svdjax.report.paper_tables import paper_scores
from svdjax.report.table import Table

if TYPE_CHECKING:
    from svdjax.evaluate.results import EvaluationResults

ANSWERS = (
    *("model", "title", "benchmark", "questions", "repeats"),
    *("accuracy_mean", "accuracy_std", "tokens_mean", "tokens_std", "stopped", "not_compared"),
    *("paper_accuracy_mean", "paper_accuracy_std", "paper_tokens_mean", "paper_tokens_std"),
)
MEASURES = {
    "accuracy": "pass@1 in %, mean and, of several repeats, their standard deviation.",
    "tokens": "Output tokens of an answer, likewise the mean of the repeats.",
    "stopped": "Ended by themselves: % of the answers; the others were cut at the limit, or where "
    "the context ends.",
}
_WORDS = {"accuracy": "pass@1", "tokens": "tokens", "stopped": "ended by themselves"}
_PAPER = tuple(name for name in ANSWERS if name.startswith("paper_"))


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, made of the models that were evaluated.

    Attributes:
        number: Its number in the paper.
        title: Its title.
        measure: ``accuracy`` or ``tokens``.
        models: Its rows of every pair.
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
    """Table of a pair: a row per model and benchmark, with the paper's values."""
    return Table("answers", ANSWERS, tuple(_rows(results, paper)))


def all_answers_table(
    evaluations: Mapping[str, EvaluationResults], papers: Mapping[str, str]
) -> Table:
    """Table of all pairs, with the columns of `answers_table` after the pair's name."""
    rows = [
        {"pair": pair, **row}
        for pair, results in evaluations.items()
        for row in _rows(results, papers.get(pair))
    ]
    return Table("answers", ("pair", *ANSWERS), tuple(rows))


def _rows(results: EvaluationResults, paper: str | None) -> Iterable[dict[str, Any]]:
    paper_values = paper_scores(paper)
    for model, scores in results.scores.items():
        for benchmark, score in scores.items():
            # The paper asks MMLU's dev questions.
            other = benchmark == "mmlu" and results.settings.get("split") != "dev"
            value = None if other else paper_values.get((model, benchmark))
            yield {
                "model": model,
                "title": results.titles.get(model, model),
                "benchmark": benchmark,
                "questions": score.n,
                "repeats": score.repeats,
                "accuracy_mean": score.accuracy_mean,
                "accuracy_std": score.accuracy_std,
                "tokens_mean": score.tokens_mean,
                "tokens_std": score.tokens_std,
                "stopped": score.stopped,
                "not_compared": sum(score.not_compared.values()),
                **{k: getattr(value, k.removeprefix("paper_"), math.nan) for k in _PAPER},
            }


def matrix(
    table: Table,
    title: str,
    measures: Sequence[str],
    models: Sequence[str] | None = None,
    *,
    folded: bool = False,
) -> TableView:
    """View with a row per pair (if there are any) and model, and columns per benchmark.

    Args:
        table: Table from `answers_table` or `all_answers_table`.
        title: Title of the view.
        measures: Some of `MEASURES`; headings name the measure where there are several.
        models: Models to show; all if not given.
        folded: Whether it is shown only on request.
    """
    chosen = [row for row in table.rows if models is None or row["model"] in models]
    columns = list(_columns(chosen, measures))
    keys = ("pair", "title") if "pair" in table.columns else ("title",)
    rows: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in chosen:
        rows.setdefault(tuple(row[key] for key in keys), {})[row["benchmark"]] = row
    heads = [Head("pair", text=True), Head("model", text=True)][-len(keys) :]
    return TableView(
        title=title,
        caption=" ".join(MEASURES[measure] for measure in measures),
        heads=(*heads, *(Head(column.label) for column in columns)),
        rows=tuple(
            (*key, *(_cell(by_benchmark.get(column.benchmark), column) for column in columns))
            for key, by_benchmark in rows.items()
        ),
        hidden=0,
        file=f"tables/{table.name}.csv",
        folded=folded,
    )


class _Column(NamedTuple):
    label: str
    benchmark: str
    measure: str
    paper: bool = False


def _columns(rows: Sequence[Row], measures: Sequence[str]) -> Iterator[_Column]:
    for benchmark in dict.fromkeys(row["benchmark"] for row in rows):
        members = [row for row in rows if row["benchmark"] == benchmark]
        for measure in measures:
            label = benchmark if len(measures) == 1 else f"{benchmark}, {_WORDS[measure]}"
            yield _Column(label, benchmark, measure)
            if any(math.isfinite(row.get(f"paper_{measure}_mean", math.nan)) for row in members):
                yield _Column(f"{label}, paper", benchmark, measure, paper=True)


def _cell(row: Row | None, column: _Column) -> str:
    if row is None:
        return MISSING
    if column.measure == "stopped":
        return decimal(row["stopped"], 1)
    key = f"paper_{column.measure}" if column.paper else column.measure
    if row["repeats"] == 1 and not column.paper:
        # One repeat has no deviation.
        return decimal(row[f"{key}_mean"], 2)
    return plus_minus(row[f"{key}_mean"], row[f"{key}_std"], 2)
