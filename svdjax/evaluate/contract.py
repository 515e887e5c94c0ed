"""The evaluation stage, as a sweep knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdjax.construct.controls import controls_of
from svdjax.engine.stages import PairPage, SharedInputs, Stage

if TYPE_CHECKING:
    from svdjax.report.section import Section


class EvaluationStage(Stage):
    """The answers of every model to the benchmarks."""

    name, file = "evaluation", "evaluation.json"
    place, anchor, title = 2, "behaviour", "Behaviour"

    def prepare(self, inputs: SharedInputs) -> Any:
        from svdjax.evaluate.inputs import read_inputs

        return inputs.of(read_inputs)

    def digests(self, prepared: Any) -> dict[str, Any]:
        return prepared.digests()

    def run(self, jobs: Any, comparisons: Any, prepared: Any, context: Any) -> dict[str, Any]:
        from svdjax.evaluate.stage import run_evaluation

        return run_evaluation(jobs, comparisons, prepared, context)

    def load(self, folder: Any) -> Any:
        from svdjax.evaluate.results import EvaluationResults

        return EvaluationResults.load(folder)

    def forecast(self, inputs: SharedInputs, prepared: Any, rate: float) -> list[str]:
        settings = inputs.settings
        options = settings.constructions
        controls = {
            one.name
            for variant in settings.chosen_variants
            if variant.recipe.kind in options.asked
            for one in controls_of(variant, options.controls)
        }
        count = len(controls) * sum(job.spec.constructed for job in inputs.jobs)
        beside = f" with {count} controls" if count else ""
        answers = settings.evaluation.rounds * sum(map(len, prepared.questions.values()))
        return [
            f"evaluation: {models_asked(inputs)}{beside} give {answers} answers each "
            f"({', '.join(prepared.questions)}), of up to {settings.evaluation.max_new_tokens} "
            "tokens"
        ]

    def summary(self, results: Any) -> str:
        limit = results.settings["max_new_tokens"]
        post = ", ".join(
            f"{benchmark} {score.accuracy_mean:.1f} ± {score.accuracy_std:.1f} % "
            f"({100 - score.stopped:.1f} % cut at {limit} tokens)"
            for benchmark, score in results.scores["post"].items()
        )
        return f"{len(results.scores)} models evaluated, post {post}"

    def section(self, results: Any, folder: Any, page: PairPage) -> Section:
        from svdjax.evaluate.page import answers_section

        return answers_section(results, folder, page.paper)

    def index_section(self, results: Any, folder: Any, papers: Any) -> Section | None:
        from svdjax.evaluate.page import index_answers

        return index_answers(results, papers, folder)


def models_asked(inputs: SharedInputs) -> str:
    """How many models of a sweep are asked or probed, in words."""
    sources = {source for job in inputs.jobs for source in (job.spec.base, job.spec.post)}
    constructed = sum(job.spec.constructed for job in inputs.jobs)
    built = len(inputs.settings.chosen_variants) * constructed
    return f"{len(sources)} models and at most {built} constructed ones"
