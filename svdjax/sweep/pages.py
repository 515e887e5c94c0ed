"""The page of a sweep: every pair, every stage and all of them side by side, in one file."""

from __future__ import annotations

import os
import pathlib
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from svdjax.engine.progress import note
from svdjax.engine.stages import PairPage
from svdjax.report import page
from svdjax.report.blob import Blob, packed_json
from svdjax.report.panels import Panel, drawn, panels
from svdjax.report.paper_tables import paper_column
from svdjax.report.section import Draw, Section, pair_sections
from svdjax.spectra.findings import MOST_LINES, coverage_counts, findings, lead, projection_lines
from svdjax.spectra.matrices import colour_range, pair_data, pair_plots
from svdjax.spectra.tables import pair_tables
from svdjax.spectra.verdicts import pair_verdicts
from svdjax.spectra.views import every_layer, pair_views
from svdjax.sweep.overview import overview
from svdjax.sweep.stages import REGISTRY, stages_of
from svdjax.sweep.trajectory import from_start, pair_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from svdjax.spectra.results import Comparison

REPORT = "report.html"


def write_report(
    workdir: str | os.PathLike[str],
    comparisons: Mapping[str, Comparison],
    *,
    papers: Mapping[str, str] | None = None,
    trajectory: Sequence[str] = (),
    results: Mapping[str, Mapping[str, Any]] | None = None,
    figures: str = "none",
    check: Callable[[str], None] = lambda done: None,
) -> pathlib.Path:
    """Writes the page of a sweep, its tables and, where they are asked for, the paper's figures.

    ``report.html`` is one file that opens without network and without the files beside it;
    ``<pair>/report.html`` leads to it, with the pair chosen. Tables are in ``tables`` of the sweep
    and of every pair, figures in ``figures``. Every file is written atomically.

    Args:
        workdir: The sweep's directory; made if it does not exist.
        comparisons: Results by pair name.
        papers: Column of the paper's tables by pair, where the models are the paper's, such as
            ``Qwen2.5-Math-1.5B/instruct``. The page notes a key that the paper has no row for.
        trajectory: Labels of the points in order, where the pairs are those of a trajectory.
        results: Results of the other stages: by stage, then by pair.
        figures: Format of the paper's figures: ``png``, ``svg``, ``pdf`` or ``none``.
        check: Called with the progress before each pair; raises to stop.

    Returns:
        The path of the page.
    """
    folder, results, papers = pathlib.Path(workdir), results or {}, papers or {}
    blob, records, entries = Blob(), [], []
    plots: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    draw: list[tuple[pathlib.Path, str, Draw]] = []
    for number, (name, comparison) in enumerate(comparisons.items()):
        check("while writing the report")
        of_pair = {stage: pairs[name] for stage, pairs in results.items() if name in pairs}
        entry = _pair(comparison, folder / name, papers.get(name), of_pair)
        records.append(_record(name, comparison, of_pair, blob))
        prefix = f"p{number}-"
        plots |= {f"{prefix}{plot.name}": plot.data() for plot in entry["plots"]}
        _gather(prefix, entry["sections"], plots, answers)
        groups = drawn(comparison.projections)[0]
        here = folder / name / "figures"
        draw += [(here, name, _spectra_figures(groups))] if groups else []
        draw += [(here, name, each) for section in entry["sections"] for each in section.draw]
        entries.append(entry)
        _write_link(folder / name, name)
    index = overview(folder, comparisons, papers, trajectory, results)
    sections = [*([index["trajectory"]] if index["trajectory"] else []), *index["sections"]]
    _gather("all-", sections, plots, answers)
    draw += [(folder / "figures", "all pairs", index["draw"])] if index["draw"] else []
    draw += [(folder / "figures", "all pairs", each) for one in sections for each in one.draw]
    meta = {
        "pairs": records,
        "plots": plots,
        "answers": answers,
        "range": colour_range([panels(one.projections.values()) for one in comparisons.values()]),
        "trajectory": _steps(trajectory),
    }
    plain = blob.plain(meta)
    path = page.render(
        folder / REPORT,
        "web/report.html",
        title=folder.resolve().name,
        pairs=entries,
        index=index,
        trajectory=bool(trajectory),
        links={name: _fragment(name) for name in comparisons},
        meta=packed_json(plain | {"arrays": blob.index}),
        data=blob.pack(),
    )
    if figures != "none":
        _draw(draw, figures, check)
    return path


def _pair(
    comparison: Comparison, folder: pathlib.Path, paper: str | None, results: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes a pair's tables; returns what the page says of it."""
    column = paper_column(paper)
    tables = pair_tables(comparison, column)
    for table in tables.values():
        table.write(folder / "tables")
    groups, left_out = drawn(comparison.projections)
    sections = pair_sections(results, stages_of(REGISTRY), folder, PairPage(groups, paper))
    lines, coverage = projection_lines(comparison), comparison.coverage
    notes = [*coverage.get("notes", ()), *([left_out] if left_out else [])]
    if paper and column is None:
        notes.append(f"The paper's Table 3 has no row {paper!r}; nothing is printed beside.")
    return {
        "name": comparison.pair,
        "folder": urllib.parse.quote(folder.name, safe="", errors="surrogatepass"),
        "base": comparison.base,
        "post": comparison.post,
        "family": comparison.family,
        "options": ", ".join(f"{k} = {v}" for k, v in dict(comparison.options).items()),
        "lead": lead(comparison, results.get("nulls")),
        "findings": findings(comparison, column),
        "lines": lines[:MOST_LINES],
        "more_lines": max(0, len(lines) - MOST_LINES),
        "analysed": len(coverage.get("analysed", ())),
        "left_out": sorted(dict(coverage.get("left_out", {})).items()),
        "reasons": coverage_counts(comparison),
        "notes": notes,
        "files": [*tables, *(name for section in sections for name in section.files)],
        "tables": pair_views(tables, column.key if column else None),
        "every": every_layer(tables["layers"]) if tables["layers"].rows else None,
        "plots": pair_plots(groups) if groups else [],
        "sections": sections,
    }


def _record(
    name: str, comparison: Comparison, results: Mapping[str, Any], blob: Blob
) -> dict[str, Any]:
    """A pair as the page's code takes it."""
    others = [
        data
        for stage in stages_of(results)
        if (data := stage.matrix_data(results[stage.name])) is not None
    ]
    verdicts = pair_verdicts(comparison, results.get("nulls"))
    # Layers that stand out come last, as they may be many.
    verdicts[-1:-1] = [verdict for data in others for verdict in data.verdicts]
    fields = ("key", "question", "answer", "tone", "detail", "matrices")
    record = pair_data(comparison, others, blob) | {"name": name}
    return record | {"verdicts": [{f: getattr(v, f) for f in fields} for v in verdicts]}


def _gather(
    prefix: str, sections: Sequence[Section], plots: dict[str, Any], answers: dict[str, Any]
) -> None:
    """Adds the plots and answers of sections, under the names that the template gives them."""
    for section in sections:
        key = f"{prefix}{section.anchor}"
        plots |= {f"{key}-{plot.name}": plot.data() for plot in section.plots}
        if section.answers:
            answers[key] = section.answers


def _steps(trajectory: Sequence[str]) -> dict[str, Any] | None:
    if not trajectory:
        return None
    pairs = from_start(trajectory)
    return {"labels": [later for _, later in pairs], "pairs": [pair_name(*pair) for pair in pairs]}


def _fragment(name: str) -> str:
    """Fragment of the page's address that chooses a pair."""
    return f"pair={urllib.parse.quote(name, safe='', errors='replace')}"


def _write_link(folder: pathlib.Path, name: str) -> None:
    """Writes the pair's own page, which leads to the sweep's."""
    page.render(
        folder / REPORT, "web/link.html", name=name, target=f"../{REPORT}#{_fragment(name)}"
    )


def _spectra_figures(groups: Sequence[Panel]) -> Draw:
    def draw() -> Iterator[tuple[str, Figure]]:
        from svdjax.spectra.figures import pair_figures

        yield from pair_figures(groups)

    return draw


def _draw(
    figures: Sequence[tuple[pathlib.Path, str, Draw]], kind: str, check: Callable[[str], None]
) -> None:
    """Draws the paper's figures into their folders."""
    from svdjax.report import style

    last = ""
    for folder, name, draw in figures:
        check("while drawing figures")
        if name != last:
            note(f"drawing the figures of {name}")
            last = name
        style.save(draw, folder, kind)
