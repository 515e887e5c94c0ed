"""The temperature stage, as a sweep knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from svdjax.engine.stages import PairPage, SharedInputs, Stage

if TYPE_CHECKING:
    from svdjax.evaluate.inputs import EvalInputs
    from svdjax.report.section import Section
    from svdjax.temperature.plan import Plan


class Prepared(NamedTuple):
    """What is done to each pair, and prompts and questions where there are any."""

    plans: dict[str, Plan]
    inputs: EvalInputs | None


class TemperatureStage(Stage):
    """Models with scaled singular values."""

    name, file = "temperature", "temperature.json"
    place, anchor, title = 4, "behaviour", "Behaviour"
    index_anchor, index_title = "temperature", "Scaled singular values"

    def prepare(self, inputs: SharedInputs) -> Prepared:
        from svdjax.construct.heldout import read_heldout
        from svdjax.evaluate.inputs import read_inputs
        from svdjax.temperature.plan import read_plans

        heldout = inputs.of(read_heldout)
        read = inputs.of(read_inputs) if inputs.settings.runs_models else None
        return Prepared(read_plans(inputs.jobs, inputs.settings, heldout, read), read)

    def digests(self, prepared: Prepared) -> dict[str, Any]:
        return prepared.inputs.digests() if prepared.inputs is not None else {}

    def run(self, jobs: Any, comparisons: Any, prepared: Prepared, context: Any) -> dict[str, Any]:
        from svdjax.temperature.stage import run_temperature

        return run_temperature(jobs, prepared.plans, prepared.inputs, context)

    def load(self, folder: Any) -> Any:
        from svdjax.temperature.results import TemperatureResults

        return TemperatureResults.load(folder)

    def forecast(self, inputs: SharedInputs, prepared: Prepared, rate: float) -> list[str]:
        options, lines = inputs.settings.temperature, []
        for pair, plan in prepared.plans.items():
            points = list(plan.grid.points())
            questions = sum(map(len, plan.questions.values()))
            answers = questions * sum(plan.asks(point, options) for point in points)
            texts = 0 if plan.rows is None else len(plan.rows.tokens)
            lines.append(
                f"temperature: {pair}, {len(options.models)} model(s) at {len(points)} points: "
                f"{texts} texts and {plan.prompts} prompts at each, {answers} answers in all"
            )
        return lines

    def summary(self, results: Any) -> str:
        factors = len(results.factors) - 1
        return f"{', '.join(results.projections)} scaled by {factors} factors"

    def section(self, results: Any, folder: Any, page: PairPage) -> Section:
        from svdjax.temperature.page import temperature_section

        return temperature_section(results, folder)

    def index_section(self, results: Any, folder: Any, papers: Any) -> Section | None:
        from svdjax.temperature.page import index_temperature

        return index_temperature(results)
