"""The outcome of a sweep, and a few lines of it for stdout."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax.spectra.results import Comparison
from svdjax.spectra.standout import summary_line
from svdjax.spectra.storage import rank_notes
from svdjax.sweep.stages import stages_of


@dataclass(frozen=True)
class SweepOutcome:
    """Results of a sweep, and how they came about.

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

    def summary(self) -> str:
        """Lines for stdout, with the paths."""
        head = "nothing to do: already finished" if self.was_finished else "done"
        lines = [f"{head}: {len(self.comparisons)} pair(s) in {self.workdir}"]
        for name, comparison in self.comparisons.items():
            projections = list(comparison.projections.values())
            ratios = [one.carried.nf_mean / one.nf_unrelated for one in projections]
            defined = [ratio for ratio in ratios if not math.isnan(ratio)]
            level = (
                f"NF {min(defined):.1%} to {max(defined):.1%} of the unrelated level"
                if defined
                else "no NF"
            )
            level = "; ".join([level, *rank_notes(projections)])
            lines.append(f"  {name}: {level}; {self.workdir / name / 'summary.json'}")
            if comparison.stands_out:
                lines.append(f"  {name}: {summary_line(comparison)}")
        lines += [
            f"  {pair}: {stage.summary(results)}; {self.workdir / pair / stage.file}"
            for stage in stages_of(self.results)
            for pair, results in self.results[stage.name].items()
        ]
        if self.report is not None:
            lines.append(f"report: {self.report}")
        return "\n".join(lines)
