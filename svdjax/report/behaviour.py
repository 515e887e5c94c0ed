"""The part of a report that tells what models do: answers to benchmarks, and probes."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from svdjax.constructions.recipes import VARIANTS
from svdjax.report import figures_answers, figures_probes, page, style
from svdjax.report.answer_tables import (
    PAPER_TABLES,
    all_answers_table,
    answers_table,
    matrix,
)
from svdjax.report.cells import TableView, dec, plain, view
from svdjax.report.constructions import Section
from svdjax.report.figures_answers import MOST_BENCHMARKS, by_group
from svdjax.report.numbers import decimal, ends, listed, plus_minus
from svdjax.report.page import Picture
from svdjax.report.tables import Table

if TYPE_CHECKING:
    from svdjax.engine.behaviour.results import EvaluationResults, ProbeResults

_INSIDES = ("model", "title", "entropy_last", "entropy_mean", "cka", "cka_last_block")


def behaviour_section(
    probes: ProbeResults | None,
    evaluation: EvaluationResults | None,
    folder: pathlib.Path,
    paper: str | None,
) -> Section | None:
    """Writes tables and figures of what a pair's models do; returns what its page shows.

    Args:
      probes: results of the probes stage, if there are any.
      evaluation: results of the evaluation stage, likewise.
      folder: the pair's.
      paper: as in `svdjax.report.write_pair`.
    """
    if probes is None and evaluation is None:
        return None
    lead, findings, facts, tables, views, figures = [], [], [], [], [], []
    notes: list[str] = []
    if evaluation is not None:
        table = answers_table(evaluation, paper)
        tables.append(table)
        views += _answer_views(table, evaluation)
        lead.append(_answers_lead(evaluation))
        findings += _answer_findings(evaluation)
        facts += _protocol(evaluation)
        notes += evaluation.notes
        shown = list(evaluation.benchmarks)[:MOST_BENCHMARKS]
        if len(shown) < len(evaluation.benchmarks):
            notes.append(f"The figure shows the first {MOST_BENCHMARKS} benchmarks.")
        with style.drawing():
            drawn = figures_answers.answers(evaluation, shown)
            figures.append(
                page.place(drawn, folder / "figures", "answers", _TITLE, _ANSWERS, _TITLE + ".")
            )
    if probes is not None:
        table = _insides(probes)
        tables.append(table)
        views.append(view(table, "Inside the models", _INSIDE, _INSIDE_CELLS, text={"model"}))
        lead.append(
            f"{len(probes.titles)} models read {probes.count} prompts, and what went on inside "
            "was held against the original."
        )
        findings += _probe_findings(probes)
        facts += [("prompts", probes.prompts), ("CKA", _kind(probes))]
        notes += probes.notes
        with style.drawing():
            figures += _probe_figures(probes, folder / "figures")
    for table in tables:
        table.write(folder / "tables")
    return Section(
        lead=" ".join(lead),
        findings=[("", line) for line in findings],
        facts=facts,
        notes=list(dict.fromkeys(notes)),
        tables=views,
        figures=figures,
        files=[table.name for table in tables],
    )


def index_answers(
    evaluations: Mapping[str, EvaluationResults],
    papers: Mapping[str, str],
    folder: pathlib.Path,
) -> Section | None:
    """The paper's tables for all pairs together; None where nothing was evaluated.

    Args:
      evaluations: results of the evaluation stage, by pair.
      papers: the paper's models by pair, where they are the paper's.
      folder: the sweep's.
    """
    if not evaluations:
        return None
    table = all_answers_table(evaluations, papers)
    table.write(folder / "tables")
    constructed = {pair for pair, one in evaluations.items() if set(one.scores) & set(VARIANTS)}
    rows = tuple(row for row in table.rows if row["pair"] in constructed)
    views = []
    for one in PAPER_TABLES:
        shown = matrix(
            Table(table.name, table.columns, rows),
            f"Table {one.number}: {one.title}",
            _UNITS[one.measure],
            one.measure,
            one.models,
        )
        if any(row["model"] in set(one.models) & VARIANTS.keys() for row in rows):
            views.append(shown)
    for measure, title in (("accuracy", "pass@1"), ("tokens", "output tokens")):
        views.append(
            matrix(
                table,
                f"All models, {title}",
                _UNITS[measure],
                measure,
                folded=bool(constructed),
            )
        )
    lines = [(pair, _answers_lead(one)) for pair, one in evaluations.items()]
    first = next(iter(evaluations.values()))
    return Section(_words(first), lines, _protocol(first), [], views, [], [table.name])


def _answer_views(table: Table, evaluation: EvaluationResults) -> list[TableView]:
    views = [
        matrix(table, "Answers, pass@1", _UNITS["accuracy"], "accuracy"),
        matrix(table, "Answers, output tokens", _UNITS["tokens"], "tokens"),
    ]
    ended = matrix(table, "Answers that ended by themselves", _UNITS["stopped"], "stopped")
    return [*views, ended]


def _answers_lead(evaluation: EvaluationResults) -> str:
    parts = []
    for benchmark in evaluation.benchmarks:
        post, base = (evaluation.scores[name][benchmark] for name in ("post", "base"))
        parts.append(
            f"{benchmark}: post answers {plus_minus(post.accuracy_mean, post.accuracy_std, 2)} % "
            f"right in {decimal(post.tokens_mean, 1)} tokens, base "
            f"{plus_minus(base.accuracy_mean, base.accuracy_std, 2)} % in "
            f"{decimal(base.tokens_mean, 1)}"
        )
    return "; ".join(parts) + "."


def _answer_findings(evaluation: EvaluationResults) -> list[str]:
    """One sentence per group of models and benchmark."""
    lines = []
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
    asked = ", ".join(f"{name} {one.n} × {one.repeats}" for name, one in scores.items())
    drawn = (
        f"temperature {how['temperature']}, top-p {how['top_p']}"
        if how["temperature"]
        else "greedy"
    )
    text = (
        f"{asked} questions × repeats; {drawn}, at most {how['max_new_tokens']} new tokens, "
        f"{how['prompt_format']} prompts, {how['dtype']}"
    )
    whole = (how["temperature"], how["top_p"], how["max_new_tokens"], how["repeats"])
    paper = whole == _PAPER_PROTOCOL and not how["limit"] and how["system"] is None
    return [("asked", text), ("protocol", "the paper's" if paper else "shortened or changed")]


def _words(evaluation: EvaluationResults) -> str:
    models = listed(list(evaluation.benchmarks))
    return f"Every model was asked the same questions ({models}); means of the repeats."


def _insides(probes: ProbeResults) -> Table:
    rows = []
    for name, title in probes.titles.items():
        last = np.diagonal(probes.cka[name])
        rows.append(
            {
                "model": name,
                "title": title,
                "entropy_last": float(np.mean(probes.entropy[f"{name}/last"])),
                "entropy_mean": float(np.mean(probes.entropy[f"{name}/mean"])),
                "cka": probes.similarity(name),
                "cka_last_block": float(last[-1]) if last.size else math.nan,
            }
        )
    return Table("probes", _INSIDES, tuple(rows))


def _kind(probes: ProbeResults) -> str:
    estimate = "debiased" if probes.settings["debiased"] else "biased, as in the paper"
    samples = {
        "prompt": "a sample is a prompt, its tokens averaged",
        "position": f"a sample is one of {probes.positions} positions, the prompts averaged",
    }
    return f"{estimate}; {samples[probes.settings['samples']]}"


def _probe_findings(probes: ProbeResults) -> list[str]:
    lines = []
    post = float(np.mean(probes.entropy["post/last"]))
    for heading, members in by_group(probes.titles).items():
        names = [name for name in members if name != "post"]
        if not names:
            continue
        alike = ends([probes.similarity(name) for name in names], lambda x: decimal(x, 3))
        entropy = [float(np.mean(probes.entropy[f"{name}/last"])) for name in names]
        what = "Base model" if heading == "Originals" else heading
        lines.append(
            f"{what}: CKA with the original {alike}, mean over the blocks; attention entropy of "
            f"the last position {ends(entropy, lambda x: decimal(x, 3))} nats (original "
            f"{decimal(post, 3)})."
        )
    return lines


def _probe_figures(probes: ProbeResults, folder: pathlib.Path) -> Iterator[Picture]:
    edited = probes.titles.keys() & VARIANTS.keys()
    modules = {"self_attn": ", edited in attention", "mlp": ", edited in the MLP"}
    for module, where in modules.items() if edited else (("all", ""),):
        names = [name for name in probes.titles if _edits(name, module)]
        shown = {name: _label(name) for name in names}
        for kind, words in (("last", "the last position"), ("mean", "all positions")):
            title = f"Attention entropy of {words}{where} (figs. 4, 15, 16)"
            values = {shown[name]: probes.entropy[f"{name}/{kind}"] for name in names}
            figure = figures_probes.entropy_curves(values, first=shown["post"])
            stem = f"entropy_{kind}_{module}"
            yield page.place(figure, folder, stem, title, _ENTROPY, f"{title}.")
        title = f"CKA with the original{where} (figs. 6, 19)"
        figure = figures_probes.cka_heatmaps(
            {shown[name]: probes.cka[name] for name in names}, first="the original"
        )
        yield page.place(figure, folder, f"cka_{module}", title, _CKA, f"{title}.")
    if probes.maps:
        block = len(probes.maps["post"]) // 2
        title = f"Attention to the first prompt in block {block} (figs. 17, 18)"
        maps = {_label(name): stack[block] for name, stack in probes.maps.items()}
        figure = figures_probes.attention_maps(maps)
        yield page.place(figure, folder, "attention", title, _MAPS, f"{title}.")


def _edits(name: str, module: str) -> bool:
    """Whether a model belongs among those edited in a module; the originals always do."""
    return name not in VARIANTS or VARIANTS[name].modules in (module, "all")


def _label(name: str) -> str:
    """What figures call a model."""
    variant = VARIANTS.get(name)
    if variant is None:
        return {"post": "original", "base": "base model"}.get(name, name)
    recipe = variant.recipe
    if recipe.kind == "replaced":
        return f"replaced, eq. {recipe.number}"
    extra = ", other" if recipe.partner == "other" else f", {variant.signs}" * bool(variant.signs)
    return f"{recipe.kind} of {recipe.changes}{extra}"


_PAPER_PROTOCOL = (0.2, 0.95, 1024, 3)
_UNITS = {
    "accuracy": "pass@1 in %, mean ± standard deviation of the repeats.",
    "tokens": "Output tokens of an answer, mean ± standard deviation of the repeats.",
    "stopped": "% of the answers; the others were cut at the limit, or where the context ends.",
}
_TITLE = "pass@1 and output tokens"
_ANSWERS = (
    "A marker per model, with a bar of one standard deviation of the repeats. A model that "
    "collapsed either says little, or talks on until it is cut."
)
_INSIDE = (
    "Means over blocks and heads; entropy in nats. CKA with the same block of the original: 1 is "
    "the same, also where one side is rotated or scaled. With few prompts even unrelated models "
    "are well above 0."
)
_INSIDE_CELLS = [
    ("model", plain("title")),
    ("entropy, last position", dec("entropy_last", 3)),
    ("all positions", dec("entropy_mean", 3)),
    ("CKA", dec("cka", 3)),
    ("CKA, last block", dec("cka_last_block", 3)),
]
_ENTROPY = (
    "Line: mean of the heads of a block; band, of the original: from the least to the greatest. "
    "The more even the attention, the higher; curves that lie on the original's attend as it does."
)
_CKA = (
    "Rows: blocks of the original; columns: blocks of the model above. A bright diagonal means "
    "that hidden states are alike block by block."
)
_MAPS = "Mean over the heads; rows attend to columns. Only some of the models have maps."
