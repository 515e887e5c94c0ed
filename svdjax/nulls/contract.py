"""The nulls stage under the sweep's contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdjax.engine.stages import Forecast, PairPage, SharedInputs, Stage

if TYPE_CHECKING:
    from svdjax.engine.cost import Rates
    from svdjax.report.matrices import MatrixData
    from svdjax.report.section import Section

_QR = 1.5  # times as long as its products alone a draw takes, for its QRs


class NullsStage(Stage):
    """NF and scaling beside changes with random signs and in random directions."""

    name, file = "nulls", "nulls.json"
    place, anchor, title, label = 0, "nulls", "Turned together?", "Null models"
    explanation = "nulls.html"

    def run(self, jobs: Any, comparisons: Any, prepared: Any, context: Any) -> dict[str, Any]:
        from svdjax.nulls.stage import run_nulls

        return run_nulls(jobs, comparisons, context)

    def work(self, jobs: Any, comparisons: Any, prepared: Any, context: Any) -> Any:
        from svdjax.nulls.stage import NullsWork

        return NullsWork(jobs, comparisons, context)

    def load(self, folder: Any) -> Any:
        from svdjax.nulls.results import NullResults

        return NullResults.load(folder)

    def forecast(self, inputs: SharedInputs, prepared: Any, rates: Rates) -> Forecast:
        from svdjax.nulls.stage import null_work
        from svdjax.spectral.null_draws import KINDS

        options = inputs.settings.nulls
        shapes = [
            (one.shape, min(options.layers or len(one.tensors), len(one.tensors)))
            for job in inputs.jobs
            for one in job.plan.projections
        ]
        matrices = sum(count for _, count in shapes) if options.draws else 0
        work = sum(count * null_work(shape, options.draws) for shape, count in shapes)
        seconds = _QR * work / rates.products if options.draws else 0.0
        draws = len(KINDS) * options.draws * matrices
        line = f"nulls: at most {draws} draws for {matrices} matrices"
        return Forecast([line], seconds, 2 * len({shape for shape, _ in shapes}))

    def section(self, results: Any, folder: Any, page: PairPage) -> Section:
        from svdjax.nulls.page import nulls_section

        return nulls_section(results, page.panels, folder)

    def matrix_data(self, results: Any) -> MatrixData:
        from svdjax.nulls.plots import null_matrices

        return null_matrices(results)

    def index_section(self, results: Any, folder: Any, papers: Any) -> Section | None:
        from svdjax.nulls.page import index_nulls

        return index_nulls(results, folder)
