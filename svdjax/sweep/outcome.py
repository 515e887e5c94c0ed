"""What a sweep found, and a few lines of it for stdout."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from svdjax.construct.results import FILE as CONSTRUCTIONS
from svdjax.construct.results import ConstructionResults
from svdjax.evaluate.results import EVALUATION, EvaluationResults
from svdjax.nulls.results import SUMMARY as NULLS
from svdjax.nulls.results import NullResults
from svdjax.probe.results import PROBES, ProbeResults
from svdjax.spectra.results import Comparison
from svdjax.spectra.standout import summary_line
from svdjax.spectra.storage import rank_notes
from svdjax.temperature.results import TEMPERATURE, TemperatureResults

RESULTS: Mapping[str, tuple[str, Callable[[pathlib.Path], Any]]] = {
    "nulls": ("nulls", NullResults.load),
    "constructions": ("constructions", ConstructionResults.load),
    "probes": ("probes", ProbeResults.load),
    "evaluation": ("evaluations", EvaluationResults.load),
    "temperature": ("temperatures", TemperatureResults.load),
}
"""Stages whose results are read pair by pair: what `SweepOutcome` calls them, and how."""


@dataclass(frozen=True)
class SweepOutcome:
    """What a sweep did.

    Attributes:
      workdir: where everything lies.
      comparisons: results by pair name.
      report: the index page, None without a report stage.
      computed: groups computed by this run.
      reused: groups taken from the journal of an earlier run.
      was_finished: there was nothing to do.
      nulls: what random signs and directions of the change show, by pair, where asked for.
      constructions: the constructed models by pair, where there are any.
      probes: what went on inside the models by pair, likewise.
      evaluations: how they did on the benchmarks by pair, likewise.
      temperatures: what scaled singular values did by pair, likewise.
      process: which of several processes says this; only process 0 has the results.
    """

    workdir: pathlib.Path
    comparisons: dict[str, Comparison]
    report: pathlib.Path | None
    computed: int = 0
    reused: int = 0
    was_finished: bool = False
    nulls: Mapping[str, NullResults] = field(default_factory=dict)
    constructions: Mapping[str, ConstructionResults] = field(default_factory=dict)
    probes: Mapping[str, ProbeResults] = field(default_factory=dict)
    evaluations: Mapping[str, EvaluationResults] = field(default_factory=dict)
    temperatures: Mapping[str, TemperatureResults] = field(default_factory=dict)
    process: int = 0

    def summary(self) -> str:
        """A few lines for stdout, with the paths; empty of a process that is not the first."""
        if self.process:
            return ""
        head = "nothing to do: already finished" if self.was_finished else "done"
        lines = [f"{head}: {len(self.comparisons)} pair(s) in {self.workdir}"]
        for name, comparison in self.comparisons.items():
            results = list(comparison.projections.values())
            ratios = [r.carried.nf_mean / r.nf_unrelated for r in results]
            known = [ratio for ratio in ratios if ratio == ratio]
            level = (
                f"NF {min(known):.1%} to {max(known):.1%} of the unrelated level"
                if known
                else "no NF"
            )
            level = "; ".join([level, *rank_notes(results)])
            lines.append(f"  {name}: {level}; {self.workdir / name / 'summary.json'}")
            if comparison.stands_out:
                lines.append(f"  {name}: {summary_line(comparison)}")
        lines += [
            f"  {name}: {one.cost['draws']} null draws for {one.cost['matrices']} matrices; "
            f"{self.workdir / name / NULLS}"
            for name, one in self.nulls.items()
        ]
        lines += [
            f"  {name}: {len(one.variants)} constructed models"
            f"{f' and {len(one.controls)} controls' * bool(one.controls)}; "
            f"{self.workdir / name / CONSTRUCTIONS}"
            for name, one in self.constructions.items()
        ]
        lines += [
            f"  {name}: {len(one.titles)} models probed on {one.count} prompts; "
            f"{self.workdir / name / PROBES}"
            for name, one in self.probes.items()
        ]
        for name, one in self.evaluations.items():
            post = ", ".join(
                f"{benchmark} {score.accuracy_mean:.1f} ± {score.accuracy_std:.1f} % "
                f"({100 - score.stopped:.1f} % cut at {one.settings['max_new_tokens']} tokens)"
                for benchmark, score in one.scores["post"].items()
            )
            where = self.workdir / name / EVALUATION
            lines.append(f"  {name}: {len(one.scores)} models evaluated, post {post}; {where}")
        lines += [
            f"  {name}: {', '.join(one.projections)} scaled by {len(one.factors) - 1} factors; "
            f"{self.workdir / name / TEMPERATURE}"
            for name, one in self.temperatures.items()
        ]
        if self.report is not None:
            lines.append(f"report: {self.report}")
        return "\n".join(lines)
