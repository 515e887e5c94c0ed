"""The evaluation stage, as a sweep knows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from svdjax.construct.contract import build_seconds, constructed_models, parameter_count
from svdjax.construct.controls import Control, controls_of
from svdjax.engine.stages import Forecast, PairPage, SharedInputs, Stage

if TYPE_CHECKING:
    from svdjax.construct.heldout import Heldout
    from svdjax.construct.recipes import Variant
    from svdjax.engine.cost import Rates
    from svdjax.engine.inputs import PairJob
    from svdjax.engine.work.unit import Work
    from svdjax.evaluate.inputs import PromptedModel
    from svdjax.report.section import Section
    from svdjax.sweep.config import Settings

_GRADE_SECONDS = 2e-3  # of an answer


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

    def work(self, jobs: Any, comparisons: Any, prepared: Any, context: Any) -> Work:
        from svdjax.evaluate.stage import EvaluationWork

        return EvaluationWork(jobs, comparisons, prepared, context)

    def load(self, folder: Any) -> Any:
        from svdjax.evaluate.results import EvaluationResults

        return EvaluationResults.load(folder)

    def forecast(self, inputs: SharedInputs, prepared: Any, rates: Rates) -> Forecast:
        from svdjax.construct.heldout import read_heldout

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
        line = (
            f"evaluation: {models_asked(inputs)}{beside} give {answers} answers each "
            f"({', '.join(prepared.questions)}), of up to {settings.evaluation.max_new_tokens} "
            "tokens"
        )
        heldout, seconds = inputs.of(read_heldout), 0.0
        for job, models in models_of(inputs, controls=True):
            reader = prepared.readers[job.spec.name]["post"]
            parameters = parameter_count(job.plan.post)
            usual, most = answer_tokens(reader, heldout.get(job.spec.name), settings)
            for model in models:
                seconds += answers * _GRADE_SECONDS * rates.host + rates.answer_seconds(
                    parameters,
                    reader.config,
                    answers=answers,
                    tokens=most if _rambles(model) else usual,
                    batch=settings.evaluation.batch_size,
                )
                seconds += build_seconds(job, rates) if model is not None else 0.0
        return Forecast([line], seconds, 12)

    def cells(self, results: Any) -> dict[str, str]:
        base, post = (results.scores.get(side, {}) for side in ("base", "post"))
        parts = [
            f"{benchmark} " * (len(post) > 1)
            + (f"{base[benchmark].accuracy_mean:.1f} → " if benchmark in base else "")
            + f"{score.accuracy_mean:.1f} %"
            for benchmark, score in post.items()
        ]
        return {"accuracy": "; ".join(parts)}

    def section(self, results: Any, folder: Any, page: PairPage) -> Section:
        from svdjax.evaluate.page import answers_section

        return answers_section(results, folder, page.paper)

    def index_section(self, results: Any, folder: Any, papers: Any) -> Section | None:
        from svdjax.evaluate.page import index_answers

        return index_answers(results, papers, folder)


def models_of(
    inputs: SharedInputs, *, controls: bool = False
) -> Iterator[tuple[PairJob, list[Variant | Control | None]]]:
    """Yields every pair with its models that a stage runs; None stands for a checkpoint's own.

    Args:
        inputs: Pairs and settings.
        controls: Whether the controls that ``config.constructions.asked`` names are among them.
    """
    sources: set[str] = set()
    for job in inputs.jobs:
        models: list[Variant | Control | None] = []
        for source in (job.spec.post, job.spec.base):
            models += [None] * (source not in sources)
            sources.add(source)
        if job.spec.constructed:
            options = inputs.settings.constructions
            variants, _ = constructed_models(job, inputs.settings)
            asked = [one for one in variants if controls and one.recipe.kind in options.asked]
            every = [one for variant in asked for one in controls_of(variant, options.controls)]
            models += [*variants, *{one.name: one for one in every}.values()]
        yield job, models


def answer_tokens(
    reader: PromptedModel, heldout: Heldout | None, settings: Settings
) -> tuple[float, float]:
    """Tokens of an answer as the held-out text has them, and of one that does not end by itself."""
    prompts = [len(one.tokens) for some in reader.questions.values() for one in some[0]]
    room = reader.config.max_position_embeddings - sum(prompts) / max(1, len(prompts))
    most = min(settings.evaluation.max_new_tokens, room)
    return min(most, heldout.tokens / heldout.texts) if heldout else most, most


def _rambles(model: Variant | Control | None) -> bool:
    """Whether a model's answers are expected not to end: without its post-training."""
    if isinstance(model, Control):
        return model.kind == "reverted"
    return model is not None and model.recipe.kind == "ablation"


def models_asked(inputs: SharedInputs) -> str:
    """How many models of a sweep are asked or probed, in words."""
    sources = {source for job in inputs.jobs for source in (job.spec.base, job.spec.post)}
    constructed = sum(job.spec.constructed for job in inputs.jobs)
    built = len(inputs.settings.chosen_variants) * constructed
    return f"{len(sources)} models and at most {built} constructed ones"
