"""The temperature stage, as a sweep knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from svdjax.construct.contract import parameter_count
from svdjax.engine.stages import Forecast, PairPage, SharedInputs, Stage
from svdjax.evaluate.contract import answer_tokens

if TYPE_CHECKING:
    from svdjax.engine.cost import Rates
    from svdjax.engine.work.unit import Work
    from svdjax.evaluate.inputs import EvalInputs
    from svdjax.report.section import Section
    from svdjax.temperature.plan import Plan

_POINT_SECONDS = 0.03  # of a point, however small the model


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

    def work(self, jobs: Any, comparisons: Any, prepared: Prepared, context: Any) -> Work:
        from svdjax.temperature.stage import TemperatureWork

        return TemperatureWork(jobs, prepared.plans, prepared.inputs, context)

    def load(self, folder: Any) -> Any:
        from svdjax.temperature.results import TemperatureResults

        return TemperatureResults.load(folder)

    def forecast(self, inputs: SharedInputs, prepared: Prepared, rates: Rates) -> Forecast:
        from svdjax.construct.heldout import read_heldout

        options, lines, total = inputs.settings.temperature, [], 0.0
        heldout, measured = inputs.of(read_heldout), set[str]()
        for job in inputs.jobs:
            pair, plan = job.spec.name, prepared.plans[job.spec.name]
            points = list(plan.grid.points())
            questions = sum(map(len, plan.questions.values()))
            asked = sum(plan.asks(point, options) for point in points)
            answers = questions * asked
            rows = () if plan.rows is None else plan.rows.tokens
            lines.append(
                f"temperature: {pair}, {len(options.models)} model(s) at {len(points)} points: "
                f"{len(rows)} texts and {plan.prompts} prompts at each, {answers} answers in all"
            )
            # What several pairs share is measured once.
            sources = {getattr(job.spec, model) for model in options.models} - measured
            measured |= sources
            parameters, tokens, seconds = parameter_count(job.plan.post), sum(map(len, rows)), 0.0
            if prepared.inputs is not None:
                reader = prepared.inputs.readers[pair]["post"]
                tokens += sum(map(len, reader.prompts[: plan.prompts]))
                if questions:
                    lengths = answer_tokens(reader, heldout.get(pair), inputs.settings)
                    seconds = asked * rates.answer_seconds(
                        parameters,
                        reader.config,
                        answers=questions,
                        tokens=sum(lengths) / 2,  # some points are hardly another model
                        batch=inputs.settings.evaluation.batch_size,
                    )
            point = _POINT_SECONDS * rates.host + rates.read_seconds(parameters, tokens)
            seconds += len(points) * point
            total += len(sources) * seconds
        return Forecast(lines, total, 6)

    def section(self, results: Any, folder: Any, page: PairPage) -> Section:
        from svdjax.temperature.page import temperature_section

        return temperature_section(results, folder)

    def index_section(self, results: Any, folder: Any, papers: Any) -> Section | None:
        from svdjax.temperature.page import index_temperature

        return index_temperature(results)
