"""Figure of pass@1 and output tokens on the benchmarks, a row per model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from svdjax.construct.groups import by_group
from svdjax.report import dot_plot, style

if TYPE_CHECKING:
    from svdjax.evaluate.results import EvaluationResults

MOST_BENCHMARKS = 6


def answers(results: EvaluationResults, benchmarks: Sequence[str]) -> Figure:
    """Mean of the repeats, with a bar of one standard deviation; one colour per benchmark."""
    figure, (accuracy_axes, tokens_axes), rows = dot_plot.dot_plot(by_group(results.scores), 2)
    for i, benchmark in enumerate(benchmarks):
        colour, marker = style.COLOURS[i], style.MARKERS[i]
        shift = 0.6 * ((i + 0.5) / len(benchmarks) - 0.5)
        scores = {
            name: by_benchmark[benchmark]
            for name, by_benchmark in results.scores.items()
            if benchmark in by_benchmark
        }
        for ax, measure in ((accuracy_axes, "accuracy"), (tokens_axes, "tokens")):
            ax.errorbar(
                [getattr(score, f"{measure}_mean") for score in scores.values()],
                [rows[name] + shift for name in scores],
                xerr=[getattr(score, f"{measure}_std") for score in scores.values()],
                color=colour,
                marker=marker,
                markersize=5,
                linestyle="",
                elinewidth=1.2,
                capsize=2,
                label=style.label(benchmark),
            )
            if "post" in scores:
                value = getattr(scores["post"], f"{measure}_mean")
                ax.axvline(value, color=colour, linestyle=(0, (4, 3)), linewidth=0.9, alpha=0.7)
    accuracy_axes.set_xlim(-3, 103)
    accuracy_axes.set_xlabel("pass@1, % (dashed: the original)")
    tokens_axes.set_xlim(left=0)
    tokens_axes.set_xlabel("output tokens")
    if len(benchmarks) > 1:
        handles, labels = accuracy_axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
