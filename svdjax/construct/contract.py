"""The constructions stage, as a sweep knows it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from svdjax.construct.controls import Control, controls_of
from svdjax.construct.recipes import Variant
from svdjax.engine.stages import Forecast, PairPage, SharedInputs, Stage

if TYPE_CHECKING:
    from svdjax.checkpoint import Checkpoint
    from svdjax.engine.cost import Rates
    from svdjax.engine.inputs import PairJob
    from svdjax.engine.pairs import PairSpec
    from svdjax.engine.work.unit import Work
    from svdjax.report.section import Section
    from svdjax.sweep.config import Settings

_GROUP_SECONDS = 0.012  # of a projection of a model, however small


class ConstructionsStage(Stage):
    """The constructed models of the pairs that are to have some, beside their controls."""

    name, file = "constructions", "constructions.json"
    place, anchor, title, explanation = 1, "constructions", "Constructions", "constructions.html"

    def pairs(self, specs: Iterable[PairSpec]) -> list[str]:
        return [spec.name for spec in specs if spec.constructed]

    def prepare(self, inputs: SharedInputs) -> Any:
        from svdjax.construct.heldout import read_heldout

        return inputs.of(read_heldout)

    def run(self, jobs: Any, comparisons: Any, prepared: Any, context: Any) -> dict[str, Any]:
        from svdjax.construct.stage import run_variants

        return run_variants(jobs, comparisons, prepared, context)

    def work(self, jobs: Any, comparisons: Any, prepared: Any, context: Any) -> Work:
        from svdjax.construct.stage import VariantsWork

        return VariantsWork(jobs, comparisons, prepared, context)

    def load(self, folder: Any) -> Any:
        from svdjax.construct.results import ConstructionResults

        return ConstructionResults.load(folder)

    def forecast_pair(self, job: PairJob, settings: Settings) -> list[str]:
        from svdjax.engine.progress import size

        if not job.spec.constructed:
            return []
        factors = sum(
            len(one.tensors) * min(one.shape) * (sum(one.shape) + 1) for one in job.plan.projections
        )
        possible, controls = constructed_models(job, settings)
        specs = [job.plan.post.spec(name) for name in job.plan.post.names]
        model = sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in specs)
        parameters = parameter_count(job.plan.post)
        line = (
            f"  constructions: {len(possible)} models and {len(controls)} controls; singular "
            f"vectors take {size(8 * factors * len(job.sources))} of disk, at most "
            f"{size(settings.factor_cache_bytes)} are kept"
        )
        if job.spec.text:
            # Post as read, the variant's matrices, and both models in float32.
            line += f"; judging them takes {size(2 * model + 8 * parameters)} of memory"
        if settings.save_variants:
            line += f"; saving them {size(len(possible) * model)} of disk"
        return [line]

    def forecast(self, inputs: SharedInputs, prepared: Any, rates: Rates) -> Forecast:
        from svdjax.engine.cost import pair_cost

        seconds, programs = 0.0, 0
        for job in inputs.jobs:
            if not job.spec.constructed:
                continue
            shapes = [one.shape for one in job.plan.projections for _ in one.tensors]
            factors = (pair_cost(shape, sides=1, posts=0, gram=False) for shape in shapes)
            variants, controls = constructed_models(job, inputs.settings)
            judged = 0.0
            if job.spec.name in prepared:
                tokens = sum(map(len, prepared[job.spec.name].rows.tokens))
                judged = rates.read_seconds(parameter_count(job.plan.post), tokens)
            seconds += len(job.sources) * sum(map(rates.seconds, factors))
            seconds += (len(variants) + len(controls)) * (build_seconds(job, rates) + judged)
            programs = max(programs, len(set(shapes)) * len(variants))
        return Forecast([], seconds, programs)

    def section(self, results: Any, folder: Any, page: PairPage) -> Section:
        from svdjax.construct.page import pair_section

        return pair_section(results, folder)

    def index_section(self, results: Any, folder: Any, papers: Any) -> Section | None:
        from svdjax.construct.page import index_section

        return index_section(results, folder)


def constructed_models(
    job: PairJob, settings: Settings
) -> tuple[list[Variant], dict[str, Control]]:
    """The chosen variants that the models of a pair allow, and their controls by name."""
    variants = [
        variant
        for variant in settings.chosen_variants
        if variant.recipe.partner != "other" or job.other is not None
    ]
    kinds = settings.constructions.controls
    controls = {one.name: one for variant in variants for one in controls_of(variant, kinds)}
    return variants, controls


def build_seconds(job: PairJob, rates: Rates) -> float:
    """Seconds of building one constructed model of a pair out of kept factors."""
    operations = sum(
        12.0 * len(one.tensors) * max(one.shape) * min(one.shape) ** 2
        for one in job.plan.projections
    )
    return _GROUP_SECONDS * rates.host * len(job.plan.projections) + operations / rates.products


def parameter_count(checkpoint: Checkpoint) -> int:
    """Numbers in all tensors of a checkpoint."""
    return sum(math.prod(checkpoint.spec(name).shape) for name in checkpoint.names)
