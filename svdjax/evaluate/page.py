"""The part of a report that tells how models did on benchmarks: of one pair, and of all."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from svdjax.construct.control_findings import answer_lines
from svdjax.construct.recipes import VARIANTS
from svdjax.evaluate import figures
from svdjax.evaluate.figures import MOST_BENCHMARKS, by_group
from svdjax.evaluate.tables import PAPER_TABLES, all_answers_table, answers_table, matrix
from svdjax.report import page, style
from svdjax.report.cells import TableView
from svdjax.report.numbers import decimal, ends, plus_minus
from svdjax.report.section import Section
from svdjax.report.table import Table

if TYPE_CHECKING:
    from svdjax.evaluate.results import EvaluationResults, Score


def answers_section(
    evaluation: EvaluationResults, folder: pathlib.Path, paper: str | None
) -> Section:
    """Writes the table and the figure of a pair's answers; returns what its page shows.

    Args:
        evaluation: Results of the evaluation stage.
        folder: The pair's.
        paper: As in `svdjax.sweep.pair_page.write_pair`.
    """
    table = answers_table(evaluation, paper)
    table.write(folder / "tables")
    shown = list(evaluation.benchmarks)[:MOST_BENCHMARKS]
    notes = list(evaluation.notes)
    if len(shown) < len(evaluation.benchmarks):
        notes.append(f"The figure shows the first {MOST_BENCHMARKS} benchmarks.")
    with style.drawing():
        drawn = figures.answers(evaluation, shown)
        figure = page.place(drawn, folder / "figures", "answers", _TITLE, _ANSWERS, f"{_TITLE}.")
    return Section(
        lead=_answers_lead(evaluation),
        findings=[("", line) for line in _answer_findings(evaluation)],
        facts=_protocol(evaluation),
        notes=notes,
        tables=_views(table, evaluation),
        figures=[figure],
        files=[table.name],
    )


def index_answers(
    evaluations: Mapping[str, EvaluationResults],
    papers: Mapping[str, str],
    folder: pathlib.Path,
) -> Section | None:
    """The paper's tables for all pairs together; None where nothing was evaluated.

    Args:
        evaluations: Results of the evaluation stage, by pair.
        papers: The paper's models by pair, where they are the paper's.
        folder: The sweep's.
    """
    if not evaluations:
        return None
    table = all_answers_table(evaluations, papers)
    table.write(folder / "tables")
    constructed = {pair for pair, one in evaluations.items() if set(one.scores) & set(VARIANTS)}
    rows = tuple(row for row in table.rows if row["pair"] in constructed)
    there = Table(table.name, table.columns, rows)
    views = [
        matrix(there, f"Table {one.number}: {one.title}", [one.measure], one.models)
        for one in PAPER_TABLES
        if any(row["model"] in set(one.models) & VARIANTS.keys() for row in rows)
    ]
    for measure, words in (("accuracy", "pass@1"), ("tokens", "output tokens")):
        title = f"All models, {words}"
        views.append(matrix(table, title, [measure], folded=bool(constructed)))
    lines = [(pair, _answers_lead(one)) for pair, one in evaluations.items()]
    # One sweep has one protocol.
    facts = _protocol(next(iter(evaluations.values())))
    return Section("", lines, facts, [], views, [], [table.name])


def _views(table: Table, evaluation: EvaluationResults) -> list[TableView]:
    """One table where there is one benchmark, else one per measure."""
    if len(evaluation.benchmarks) == 1:
        return [matrix(table, "Answers", ["accuracy", "tokens", "stopped"])]
    return [
        matrix(table, "Answers, pass@1", ["accuracy"]),
        matrix(table, "Answers, output tokens", ["tokens"]),
        matrix(table, "Answers that ended by themselves", ["stopped"], folded=True),
    ]


def _answers_lead(evaluation: EvaluationResults) -> str:
    parts = []
    for benchmark in evaluation.benchmarks:
        post, base = (evaluation.scores[name][benchmark] for name in ("post", "base"))
        parts.append(
            f"{benchmark}: post answers {_right(post)} % right in {decimal(post.tokens_mean, 1)} "
            f"tokens, base {_right(base)} % in {decimal(base.tokens_mean, 1)}; "
            f"{_cut(post, base, evaluation.settings['max_new_tokens'])}"
        )
    return "; ".join(parts) + "."


def _cut(post: Score, base: Score, limit: int) -> str:
    """What the limit of new tokens does to the accuracy beside which it stands."""
    if min(post.stopped, base.stopped) == 100:
        return f"every answer ended by itself within the limit of {limit} new tokens"
    shares = [
        f"{decimal(100 - score.stopped, 1)} % of {name}'s"
        for score, name in ((post, "post"), (base, "base"))
    ]
    return (
        f"{' and '.join(shares)} answers were cut at the limit of {limit} new tokens or at the end "
        "of the context"
    )


def _right(score: Score) -> str:
    if score.repeats == 1:
        return decimal(score.accuracy_mean, 2)
    return plus_minus(score.accuracy_mean, score.accuracy_std, 2)


def _answer_findings(evaluation: EvaluationResults) -> list[str]:
    """One sentence per group of models and benchmark."""
    lines = answer_lines(evaluation)
    for heading, members in by_group(evaluation.scores).items():
        if heading == "Originals":
            continue
        for benchmark in evaluation.benchmarks:
            scores = [evaluation.scores[name][benchmark] for name in members]
            right = ends([one.accuracy_mean for one in scores], lambda x: f"{decimal(x, 1)} %")
            tokens = ends([one.tokens_mean for one in scores], lambda x: decimal(x, 1))
            ended = ends([one.stopped for one in scores], lambda x: f"{decimal(x, 1)} %")
            count = f"{len(members)} model{'s' if len(members) > 1 else ''}"
            lines.append(
                f"{heading} ({count}), {benchmark}: {right} right, {tokens} tokens; {ended} of "
                "the answers ended by themselves."
            )
    return lines


def _protocol(evaluation: EvaluationResults) -> list[tuple[str, str]]:
    how = evaluation.settings
    scores = next(iter(evaluation.scores.values()))
    times = "once" if how["repeats"] == 1 else f"{how['repeats']} times"
    asked = ", ".join(f"{name}: {one.n} questions" for name, one in scores.items())
    drawn = "greedy"
    if how["temperature"]:
        drawn = f"temperature {how['temperature']}, top-p {how['top_p']}"
    text = (
        f"{asked}, each {times}; {drawn}, at most {how['max_new_tokens']} new tokens, "
        f"{how['prompt_format']} prompts, {how['dtype']}"
    )
    same = all(how[name] == value for name, value in _PAPER_PROTOCOL.items())
    return [("asked", text), ("protocol", "the paper's" if same else _OTHER)]


_PAPER_PROTOCOL = {
    **{"temperature": 0.2, "top_p": 0.95, "max_new_tokens": 1024, "repeats": 3},
    **{"limit": 0, "system": None, "prompt_format": "chat"},
}
_OTHER = (
    "not the paper's, which is: all questions, 3 times, temperature 0.2, top-p 0.95, at most 1024 "
    "new tokens, its system prompts, chat prompts"
)
_TITLE = "pass@1 and output tokens"
_ANSWERS = (
    "A marker per model, with a bar of one standard deviation of the repeats. A model that "
    "collapsed either says little, or talks on until it is cut."
)
