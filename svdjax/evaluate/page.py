"""Sections of the pages about benchmarks: of a pair, and of the index."""

from __future__ import annotations

import itertools
import json
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from svdjax.construct.control_findings import answer_lines
from svdjax.construct.groups import by_group
from svdjax.construct.recipes import VARIANTS
from svdjax.evaluate.results import RESPONSES, responses_path
from svdjax.evaluate.tables import PAPER_TABLES, all_answers_table, answers_table, matrix
from svdjax.report.cells import TableView
from svdjax.report.numbers import decimal, ends, plus_minus
from svdjax.report.plot import Plot, dot_rows
from svdjax.report.section import Section
from svdjax.report.table import Table

if TYPE_CHECKING:
    from svdjax.evaluate.results import EvaluationResults, Score


def answers_section(
    evaluation: EvaluationResults, folder: pathlib.Path, paper: str | None
) -> Section:
    """Writes the table of a pair's answers; returns its page's section.

    Args:
        evaluation: Results of the evaluation stage.
        folder: The pair's directory.
        paper: Column of the paper's tables, None for none.
    """
    table = answers_table(evaluation, paper)
    table.write(folder / "tables")
    listed, note = read_answers(evaluation, folder)
    return Section(
        lead=_answers_lead(evaluation),
        findings=[("", line) for line in _answer_findings(evaluation)],
        facts=_protocol(evaluation),
        notes=[*evaluation.notes, *([note] if note else [])],
        tables=_views(table, evaluation),
        plots=[_plot(evaluation)],
        answers=listed,
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
        papers: Column of the paper's tables by pair, where there is one.
        folder: The sweep's directory.
    """
    if not evaluations:
        return None
    table = all_answers_table(evaluations, papers)
    table.write(folder / "tables")
    constructed = {
        pair for pair, results in evaluations.items() if VARIANTS.keys() & results.scores.keys()
    }
    rows = tuple(row for row in table.rows if row["pair"] in constructed)
    constructed_table = Table(table.name, table.columns, rows)
    views = [
        matrix(
            constructed_table, f"Table {paper.number}: {paper.title}", [paper.measure], paper.models
        )
        for paper in PAPER_TABLES
        if any(row["model"] in VARIANTS.keys() & set(paper.models) for row in rows)
    ]
    for measure, title in (
        ("accuracy", "All models, pass@1"),
        ("tokens", "All models, output tokens"),
    ):
        views.append(matrix(table, title, [measure], folded=bool(constructed)))
    return Section(
        lead="",
        findings=[(pair, _answers_lead(results)) for pair, results in evaluations.items()],
        # All pairs of a sweep have one protocol.
        facts=_protocol(next(iter(evaluations.values()))),
        tables=views,
        files=[table.name],
    )


def read_answers(
    evaluation: EvaluationResults, folder: pathlib.Path
) -> tuple[list[dict[str, Any]], str]:
    """Answers of the page's list, of every model the first ones, and a note on those left out."""
    scored = (score for scores in evaluation.scores.values() for score in scores.values())
    count = sum(score.n * score.repeats for score in scored)
    most = max(1, MOST_LISTED // max(1, len(evaluation.scores) * len(evaluation.benchmarks)))
    answers = []
    for model, scores in evaluation.scores.items():
        for benchmark in scores:
            path = responses_path(folder, benchmark, model)
            if not path.is_file():
                continue
            with path.open(encoding="utf-8") as lines:
                for line in itertools.islice(lines, most):
                    answer = json.loads(line)
                    chosen = {key: answer.get(key) for key in _LISTED}
                    answers.append({"model": model, "benchmark": benchmark, **chosen})
    left = count - len(answers)
    where = f"; all of them are in the folder {RESPONSES}"
    note = f"The list has the first {len(answers)} of {count} answers{where}." if left else ""
    return answers, note if answers else ""


def _plot(evaluation: EvaluationResults) -> Plot:
    rows, names = dot_rows(by_group(evaluation.scores))
    panels = []
    for measure, title in (
        ("accuracy", "pass@1, % (dashed: the original)"),
        ("tokens", "output tokens"),
    ):
        series, rules = [], []
        for i, benchmark in enumerate(evaluation.benchmarks):
            scores = [evaluation.scores.get(name, {}).get(benchmark) for name in names]
            series.append(
                {
                    "label": benchmark,
                    "colour": i,
                    "values": [getattr(score, f"{measure}_mean", None) for score in scores],
                    "error": [getattr(score, f"{measure}_std", None) for score in scores],
                    "gone": [score is None for score in scores],
                }
            )
            post = evaluation.scores.get("post", {}).get(benchmark)
            rules += [[getattr(post, f"{measure}_mean"), i]] if post else []
        panel = {"title": title, "series": series, "rules": rules, "log": False}
        panels.append(panel | ({"range": [-3, 103]} if measure == "accuracy" else {}))
    return Plot("answers", _TITLE, _ANSWERS, "dots", panels, rows=rows, options={"spread": True})


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
            f"{benchmark}: post answers {_pass1(post)} % right in {decimal(post.tokens_mean, 1)} "
            f"tokens, base {_pass1(base)} % in {decimal(base.tokens_mean, 1)}; "
            f"{_cut(post, base, evaluation.settings['max_new_tokens'])}"
        )
    return "; ".join(parts) + "."


def _cut(post: Score, base: Score, limit: int) -> str:
    """Share of answers that the limit of new tokens has cut."""
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


def _pass1(score: Score) -> str:
    if score.repeats == 1:
        return decimal(score.accuracy_mean, 2)
    return plus_minus(score.accuracy_mean, score.accuracy_std, 2)


def _answer_findings(evaluation: EvaluationResults) -> list[str]:
    """A sentence per group of models and benchmark."""
    lines = answer_lines(evaluation)
    for heading, members in by_group(evaluation.scores).items():
        if heading == "Originals":
            continue
        for benchmark in evaluation.benchmarks:
            scores = [evaluation.scores[name][benchmark] for name in members]
            right = ends([score.accuracy_mean for score in scores], _percent)
            tokens = ends([score.tokens_mean for score in scores], lambda x: decimal(x, 1))
            ended = ends([score.stopped for score in scores], _percent)
            count = f"{len(members)} model{'s' if len(members) > 1 else ''}"
            lines.append(
                f"{heading} ({count}), {benchmark}: {right} right, {tokens} tokens; {ended} of "
                "the answers ended by themselves."
            )
    return lines


def _percent(value: float) -> str:
    return f"{decimal(value, 1)} %"


def _protocol(evaluation: EvaluationResults) -> list[tuple[str, str]]:
    settings = evaluation.settings
    scores = next(iter(evaluation.scores.values()))
    times = "once" if settings["repeats"] == 1 else f"{settings['repeats']} times"
    questions = ", ".join(f"{name}: {score.n} questions" for name, score in scores.items())
    sampling = "greedy"
    if settings["temperature"]:
        sampling = f"temperature {settings['temperature']}, top-p {settings['top_p']}"
    text = (
        f"{questions}, each {times}; {sampling}, at most {settings['max_new_tokens']} new tokens, "
        f"{settings['prompt_format']} prompts, {settings['dtype']}"
    )
    same = all(settings[name] == value for name, value in _PAPER_PROTOCOL.items())
    return [("asked", text), ("protocol", "the paper's" if same else _OTHER)]


_PAPER_PROTOCOL = {
    **{"temperature": 0.2, "top_p": 0.95, "max_new_tokens": 1024, "repeats": 3},
    **{"limit": 0, "system": None, "prompt_format": "chat"},
}
_OTHER = (
    "not the paper's, which is: all questions, 3 times, temperature 0.2, top-p 0.95, at most 1024 "
    "new tokens, its system prompts, chat prompts"
)
MOST_LISTED = 6000
"""Answers of a pair that the page lists; a few megabytes at most."""
_LISTED = (
    *("id", "prompt", "response", "answer", "extracted", "correct", "reason", "tokens", "stopped"),
)
_TITLE = "pass@1 and output tokens"
_ANSWERS = (
    "A marker per model, with a bar of one standard deviation of the repeats. A model that "
    "collapsed either says little, or talks on until it is cut."
)
