"""The constructions stage, as a sweep knows it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from svdjax.engine.stages import PairPage, SharedInputs, Stage

if TYPE_CHECKING:
    from svdjax.engine.inputs import PairJob
    from svdjax.engine.pairs import PairSpec
    from svdjax.report.section import Section
    from svdjax.sweep.config import Settings


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

    def load(self, folder: Any) -> Any:
        from svdjax.construct.results import ConstructionResults

        return ConstructionResults.load(folder)

    def forecast_pair(self, job: PairJob, settings: Settings) -> list[str]:
        import numpy as np

        from svdjax.construct.controls import controls_of
        from svdjax.engine.progress import size

        if not job.spec.constructed:
            return []
        factors = sum(
            len(one.tensors) * min(one.shape) * (sum(one.shape) + 1) for one in job.plan.projections
        )
        chosen = settings.chosen_variants
        possible = [one for one in chosen if one.recipe.partner != "other" or job.other is not None]
        kinds = settings.constructions.controls
        controls = {one.name for variant in possible for one in controls_of(variant, kinds)}
        specs = [job.plan.post.spec(name) for name in job.plan.post.names]
        model = sum(int(np.prod(spec.shape)) * spec.dtype.itemsize for spec in specs)
        parameters = sum(int(np.prod(spec.shape)) for spec in specs)
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

    def forecast(self, inputs: SharedInputs, prepared: Any, rate: float) -> list[str]:
        if not any(job.spec.constructed for job in inputs.jobs):
            return []
        return ["constructions come on top: about as long again, and the decoder's time"]

    def summary(self, results: Any) -> str:
        beside = f" and {len(results.controls)} controls" if results.controls else ""
        return f"{len(results.variants)} constructed models{beside}"

    def section(self, results: Any, folder: Any, page: PairPage) -> Section:
        from svdjax.construct.page import pair_section

        return pair_section(results, folder)

    def index_section(self, results: Any, folder: Any, papers: Any) -> Section | None:
        from svdjax.construct.page import index_section

        return index_section(results, folder)
