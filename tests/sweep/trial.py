"""A stage in twenty lines, as a stranger would add one."""

from __future__ import annotations

import json
from typing import Any

from svdjax.atomic import write_json
from svdjax.engine.context import WithoutUnits
from svdjax.engine.stages import Forecast, PairPage, SharedInputs, Stage
from svdjax.report.section import Section


class TrialStage(Stage):
    """Counts the matrices of a pair."""

    name, file = "trial", "trial.json"
    place, anchor, title = 9, "trial", "A trial"

    def run(self, jobs: Any, comparisons: Any, prepared: Any, context: Any) -> dict[str, Any]:
        def make(job: Any) -> dict[str, int]:
            found = {"matrices": sum(len(one.tensors) for one in job.plan.projections)}
            write_json(context.workdir / job.spec.name / self.file, found)
            return found

        return context.pair_by_pair(jobs, self.load, WithoutUnits(make))

    def load(self, folder: Any) -> dict[str, int]:
        return json.loads((folder / self.file).read_text())

    def forecast(self, inputs: SharedInputs, prepared: Any, rates: Any) -> Forecast:
        return Forecast([f"trial: {len(inputs.jobs)} pair(s) are counted"], 0.1 * len(inputs.jobs))

    def cells(self, results: Any) -> dict[str, str]:
        return {"matrices": str(results["matrices"])}

    def section(self, results: Any, folder: Any, page: PairPage) -> Section:
        return Section(f"There are {results['matrices']} matrices.", [])

    def index_section(self, results: Any, folder: Any, papers: Any) -> Section:
        return Section(
            "", [(pair, f"{one['matrices']} matrices.") for pair, one in results.items()]
        )
