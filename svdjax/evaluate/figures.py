"""How every model did on the benchmarks: pass@1 and output tokens, a row per model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from svdjax.construct.groups import by_group
from svdjax.report import figures_rows, style

if TYPE_CHECKING:
    from svdjax.evaluate.results import EvaluationResults

MOST_BENCHMARKS = 6


def answers(results: EvaluationResults, benchmarks: Sequence[str]) -> Figure:
    """Mean of the repeats, with a bar of one standard deviation; one colour per benchmark."""
    named = by_group(results.scores)
    figure, (right, length), places = figures_rows.rows(named, 2)
    for i, benchmark in enumerate(benchmarks):
        colour, marker = style.COLOURS[i], style.MARKERS[i]
        shift = 0.6 * ((i + 0.5) / len(benchmarks) - 0.5)
        for ax, measure in ((right, "accuracy"), (length, "tokens")):
            found = {
                name: scores[benchmark]
                for name, scores in results.scores.items()
                if benchmark in scores
            }
            ax.errorbar(
                [getattr(one, f"{measure}_mean") for one in found.values()],
                [places[name] + shift for name in found],
                xerr=[getattr(one, f"{measure}_std") for one in found.values()],
                color=colour,
                marker=marker,
                markersize=5,
                linestyle="",
                elinewidth=1.2,
                capsize=2,
                label=style.label(benchmark),
            )
            if "post" in found:
                value = getattr(found["post"], f"{measure}_mean")
                ax.axvline(value, color=colour, linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.7)
    right.set_xlim(-3, 103)
    right.set_xlabel("pass@1, % (dashed: the original)")
    length.set_xlim(left=0)
    length.set_xlabel("output tokens")
    if len(benchmarks) > 1:
        handles, labels = right.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
