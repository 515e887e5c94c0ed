"""The probes stage under the sweep's contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdjax.construct.contract import build_seconds, parameter_count
from svdjax.engine.stages import Forecast, PairPage, SharedInputs, Stage
from svdjax.evaluate.contract import models_asked, models_of
from svdjax.probe.job import LINEARISED_PASSES

if TYPE_CHECKING:
    from svdjax.engine.cost import Rates
    from svdjax.report.section import Section


class ProbesStage(Stage):
    """Attention entropy and CKA of every model on prompts."""

    name, file = "probes", "probes.json"
    place, anchor, title, figures = 3, "behaviour", "Behaviour", 7

    def prepare(self, inputs: SharedInputs) -> Any:
        from svdjax.evaluate.inputs import read_inputs

        return inputs.of(read_inputs)

    def digests(self, prepared: Any) -> dict[str, Any]:
        return prepared.digests()

    def run(self, jobs: Any, comparisons: Any, prepared: Any, context: Any) -> dict[str, Any]:
        from svdjax.probe.stage import run_probes

        return run_probes(jobs, comparisons, prepared, context)

    def work(self, jobs: Any, comparisons: Any, prepared: Any, context: Any) -> Any:
        from svdjax.probe.stage import ProbesWork

        return ProbesWork(jobs, comparisons, prepared, context)

    def load(self, folder: Any) -> Any:
        from svdjax.probe.results import ProbeResults

        return ProbeResults.load(folder)

    def forecast(self, inputs: SharedInputs, prepared: Any, rates: Rates) -> Forecast:
        seconds = 0.0
        for job, models in models_of(inputs):
            prompts = prepared.readers[job.spec.name]["post"].prompts
            parameters = parameter_count(job.plan.post)
            seconds += len(models) * rates.read_seconds(parameters, sum(map(len, prompts)))
            seconds += sum(map(bool, models)) * build_seconds(job, rates)
            if inputs.settings.probes.linearised:
                seconds += LINEARISED_PASSES * rates.read_seconds(
                    parameters, sum(map(len, prompts))
                )
        line = f"probes: {models_asked(inputs)} read {len(prepared.prompts)} prompts"
        return Forecast([line], seconds, 4)

    def section(self, results: Any, folder: Any, page: PairPage) -> Section:
        from svdjax.probe.page import probe_section

        return probe_section(results, folder)
