"""The outcome of a sweep, and a few lines of it for stdout."""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from svdjax.engine.pairs import PairSpec
from svdjax.engine.progress import wrapped
from svdjax.engine.text_table import html_table, text_table
from svdjax.engine.workdir import Workdir
from svdjax.errors import InputError, did_you_mean, printable
from svdjax.spectra.results import SUMMARY, Comparison
from svdjax.spectra.standout import by_matrix, matrix_name
from svdjax.spectra.storage import rank_notes
from svdjax.sweep.stages import stages_of

if TYPE_CHECKING:
    import pandas
    import xarray

_MOST_PAIRS, _MOST_NAMES = 20, 2
_LEVEL = 0.05
_LEGEND = (
    "ranges over the projections; NF share: NF of that of unrelated matrices; co-rotation: ½ by "
    f"chance, and in how many projections it is not (p ≤ {_LEVEL})"
)


@dataclass(frozen=True, repr=False)
class SweepOutcome(Mapping[str, Comparison]):
    """Results of a sweep, and how they came about; a mapping of its pairs.

    Attributes:
        workdir: Where everything lies.
        comparisons: Results by pair name.
        report: The index page, None without a report stage.
        computed: Groups computed by this run.
        reused: Groups taken from the journal of an earlier run.
        was_finished: There was nothing to do.
        results: What the other stages found: by stage, then by pair.
    """

    workdir: pathlib.Path
    comparisons: dict[str, Comparison]
    report: pathlib.Path | None
    computed: int = 0
    reused: int = 0
    was_finished: bool = False
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, workdir: str | os.PathLike[str]) -> SweepOutcome:
        """What a finished sweep left in its workdir, or a pair of one in its own directory.

        Raises:
            InputError: It is neither, the sweep is not finished, or files are missing or damaged.
        """
        place = Workdir(workdir, flag="workdir")
        state = place.state()
        if not state:
            if not (place.path / SUMMARY).is_file():
                raise InputError(
                    f"{place.path} holds neither {place.record.name} nor {SUMMARY}: expected the "
                    "workdir of a sweep, or the directory of one of its pairs"
                )
            comparison = Comparison.load(place.path)
            page = place.path / "report.html"
            return cls(place.path, {comparison.pair: comparison}, page if page.is_file() else None)
        if state.get("status") != "done":
            raise InputError(
                f"{place.path} holds a sweep that is not finished (status "
                f"{printable(str(state.get('status')), 40)}): give its command again first"
            )
        try:
            specs = [_spec(name, entry) for name, entry in state["config"]["pairs"].items()]
            stages = stages_of(state["stages"])
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{place.record} is damaged: {type(error).__name__} {error}"
            ) from error
        return cls(
            workdir=place.path,
            comparisons={spec.name: Comparison.load(place.path / spec.name) for spec in specs},
            report=place.path / "report.html" if "report" in state["stages"] else None,
            was_finished=True,
            results={
                stage.name: {name: stage.load(place.path / name) for name in stage.pairs(specs)}
                for stage in stages
            },
        )

    def __getitem__(self, pair: str) -> Comparison:
        if pair not in self.comparisons:
            known = did_you_mean(pair, self.comparisons) or f"; there are {', '.join(self)}"
            raise KeyError(f"no pair {pair!r}{known}")
        return self.comparisons[pair]

    def __iter__(self) -> Iterator[str]:
        return iter(self.comparisons)

    def __len__(self) -> int:
        return len(self.comparisons)

    def summary(self) -> str:
        """Lines for stdout, with the paths: a table with a line for each pair."""
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        head = "nothing to do: already finished" if self.was_finished else "done"
        lines = [f"{head}: {len(self)} pair(s) in {self.workdir}"]
        files = [SUMMARY, *(stage.file for stage in stages_of(self.results))]
        notes = [
            f"{name}: {'; '.join(said)}"
            for name, comparison in self.items()
            if (said := rank_notes(comparison.projections.values()))
        ]
        if len(self) > _MOST_PAIRS:
            notes.append(f"{len(self) - _MOST_PAIRS} more pairs")
        notes += [_LEGEND, f"in the directory of each pair: {', '.join(dict.fromkeys(files))}"]
        if width is not None:
            lines, notes = ([wrapped(line, width) for line in part] for part in (lines, notes))
        lines += [text_table(self._rows(_MOST_PAIRS), width), *notes]
        if self.report is not None:
            lines.append(f"report: {self.report.resolve().as_uri()}")
        return "\n".join(lines)

    def to_dataframe(self) -> pandas.DataFrame:
        """A row for each matrix of every pair; see `Comparison.to_dataframe`."""
        from svdjax.spectra.frames import to_dataframe

        return to_dataframe(self.values())

    def to_xarray(self) -> xarray.Dataset:
        """All arrays, with a dimension ``pair``; see `Comparison.to_xarray`."""
        from svdjax.spectra.frames import to_xarray

        return to_xarray(self.values())

    def show(self) -> pathlib.Path:
        """Opens the report in a browser; returns its path.

        Raises:
            InputError: The sweep had no report stage.
        """
        from svdjax.spectra.frames import open_page

        if self.report is None:
            raise InputError(
                f"{self.workdir} has no report.html: sweep with 'report' among config.stages, or "
                "show a pair of it"
            )
        return open_page(self.report)

    def __repr__(self) -> str:
        return f"Sweep of {len(self)} pair(s) in {self.workdir}\n{text_table(self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(self._rows(), f"Sweep in {self.workdir}")

    def _rows(self, most: int | None = None) -> list[list[str]]:
        """Cells of the table of pairs, the head first."""
        cells = [_cells(comparison) for comparison in list(self.values())[:most]]
        for stage in stages_of(self.results):
            for row in cells:
                if (results := self.results[stage.name].get(row["pair"])) is not None:
                    row |= stage.cells(results)
        head = list(dict.fromkeys(column for row in cells for column in row))
        return [head, *([row.get(column, "–") for column in head] for row in cells)]


def load(workdir: str | os.PathLike[str]) -> SweepOutcome:
    """Results of a finished sweep, or of one pair of it.

    Example:
        >>> import svdjax
        >>> sweep = svdjax.load("runs/reference")
        >>> sweep["base-instruct"]["q_proj"].nf, sweep.results["nulls"]["base-instruct"]

    Args:
        workdir: The sweep's, or a pair's directory in it.

    Raises:
        InputError: It is neither, the sweep is not finished, or files are missing or damaged.
    """
    return SweepOutcome.load(workdir)


def _spec(name: str, entry: Mapping[str, Any]) -> PairSpec:
    known = {field.name for field in dataclasses.fields(PairSpec)}
    return PairSpec(name, **{key: value for key, value in entry.items() if key in known})


def _cells(comparison: Comparison) -> dict[str, str]:
    """What the table says of a pair's spectra, by column."""
    projections = [projection.carried for projection in comparison.projections.values()]
    shares = _span((100 * one.nf_mean / one.nf_unrelated for one in projections), "{:.1f}")
    rotation = _span((one.corotation_pooled.share for one in projections), "{:.3f}")
    p_values = [p for p in comparison.corotation_p.values() if not math.isnan(p)]
    if p_values:
        count = sum(p <= _LEVEL for p in p_values)
        rotation += f" ({count}/{len(p_values)})"
    odd = by_matrix(comparison.stands_out)
    names = [
        f"{matrix_name(comparison, *matrix)} ({', '.join(entry.metric for entry in entries)})"
        for matrix, entries in list(odd.items())[:_MOST_NAMES]
    ]
    names += [f"{len(odd) - len(names)} more"] * (len(odd) > len(names))
    return {
        "pair": comparison.pair,
        "alpha": _span((one.alpha_mean for one in projections), "{:.3f}"),
        "NF share": shares if shares == "–" else f"{shares} %",
        "co-rotation": rotation,
        "stands out": "; ".join(names) or "–",
    }


def _span(values: Iterable[float], form: str) -> str:
    """The smallest and the largest of the values that are not NaN."""
    defined = [value for value in values if not math.isnan(value)]
    if not defined:
        return "–"
    low, high = form.format(min(defined)), form.format(max(defined))
    return low if low == high else f"{low}–{high}"
