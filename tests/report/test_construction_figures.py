"""Figures of constructed models: every panel is drawn, nothing warns, whatever the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from svdjax.construct import figures, figures_sizes
from svdjax.construct.groups import GROUPS
from svdjax.construct.recipes import VARIANTS
from svdjax.construct.results import ConstructionResults
from svdjax.report import style
from tests.report import synthetic_constructions as synthetic
from tests.report.pages import HOSTILE
from tests.report.pixels import assert_alive, assert_ticks_apart, render


def huge() -> ConstructionResults:
    return synthetic.results(restoration=(1e-6, 1e-12), raw=(50.0, 1e4), aligned=(3.0, 900.0))


def alike() -> ConstructionResults:
    kinds = dict.fromkeys(("replaced", "restoration", "other", "raw", "aligned"), (0.1, 0.02))
    return synthetic.results(**kinds)


def hostile() -> ConstructionResults:
    names = ("$x^2$ $", "重み", "a\nb\x00", "w" * 300, HOSTILE)
    made = {
        name: synthetic.model("replaced", 0.1, 0.1, name=name, title=name, construction=name)
        for name in names
    }
    return synthetic.results(fields={"variants": made})


CASES: dict[str, Callable[[], ConstructionResults]] = {
    "as the paper": synthetic.results,
    "without text": lambda: synthetic.results(text=""),
    "some not finite": lambda: synthetic.results(
        overridden=synthetic.lost("ablation_V_SA", "replaced")
    ),
    "none finite": lambda: synthetic.results(overridden=synthetic.lost(*VARIANTS)),
    "nothing changed": lambda: synthetic.results(
        **dict.fromkeys(("replaced", "restoration", "other", "raw", "aligned"), (0.0, 0.0))
    ),
    "rounding below zero": lambda: synthetic.results(
        overridden={"replaced": {"kl": -1e-9, "loss": 1.2499}}
    ),
    "only one": lambda: synthetic.results(names=("restoration_V_SA",)),
    "huge spans": huge,
    "all alike": alike,
    "odd names": hostile,
    "no loss at all": lambda: synthetic.results(
        names=("replaced",), replaced=(0.1, 0.0), fields={"original_loss": 0.0}
    ),
}


# Pairs are drawn by what draws one: where their axes or labels are others.
BESIDE = ("as the paper", "without text", "some not finite", "nothing changed", "odd names")


@pytest.mark.parametrize("case", CASES)
def test_every_panel_is_drawn(case, tmp_path):
    made = CASES[case]()
    with style.drawing():
        drawn = [figures.outcomes(made), figures_sizes.sizes(made)]
        if case in BESIDE:
            drawn.append(figures.pairs({"a": made, "$b$": synthetic.results()}))
        for figure in drawn:
            assert_alive(figure, tmp_path)
            assert_ticks_apart(figure)


def test_every_model_has_its_marker_where_its_numbers_are():
    made = synthetic.results()
    with style.drawing():
        loss, kl = figures.outcomes(made).axes
    texts = [text.get_text() for text in loss.get_yticklabels()]
    assert [text for text in texts if text in {group.label for group in GROUPS.values()}] == [
        GROUPS[key].label for key in ("replaced", "restoration", "other", "raw", "aligned")
    ]
    for ax, field in ((loss, "loss"), (kl, "kl")):
        drawn = sorted(
            float(np.asarray(line.get_xdata())[0])
            for line in ax.lines
            if line.get_marker() not in ("None", "", None)
        )
        assert drawn == sorted(getattr(one, field) for one in made.variants.values())
    assert loss.get_xscale() == "linear"
    assert kl.get_xscale() == "log"
    dashed = [line for line in loss.lines if np.array_equal(line.get_xdata(), [1.25, 1.25])]
    assert dashed


def test_controls_lie_in_the_row_of_what_they_control():
    made = synthetic.results(controls={"noise": 0.001, "interpolated": 0.03, "reverted": 0.0})
    with style.drawing():
        loss, kl = figures.outcomes(made).axes
    for kind, value in (("noise", 0.001), ("interpolated", 0.03)):
        (line,) = (each for each in kl.lines if each.get_label() == GROUPS[kind].label)
        np.testing.assert_array_equal(line.get_xdata(), [value] * len(made.variants))
        assert len(np.unique(np.asarray(line.get_ydata()))) == len(made.variants)
        assert kl.get_xlim()[0] < value < kl.get_xlim()[1]
    labels = [each.get_label() for each in (*kl.lines, *loss.lines)]
    assert GROUPS["reverted"].label not in labels  # 0 has no place on a logarithmic axis


def test_a_loss_that_spans_decades_is_logarithmic():
    made = synthetic.results(
        fields={"original_loss": 0.001}, overridden={"replaced": {"loss": 0.0011}}
    )
    with style.drawing():
        loss, _ = figures.outcomes(made).axes
    assert loss.get_xscale() == "log"


def test_what_cannot_be_drawn_is_said():
    made = synthetic.results(
        overridden={**synthetic.lost("ablation_V_SA"), "replaced": {"kl": 0.0}}
    )
    with style.drawing():
        loss, kl = figures.outcomes(made).axes
        (ax,) = figures_sizes.sizes(made).axes
    assert [text.get_text() for text in loss.texts] == ["not finite"]
    assert sorted(text.get_text() for text in kl.texts) == ["0", "not finite"]
    said = [text.get_text() for text in ax.texts if "not drawn" in text.get_text()]
    assert said == ["not drawn, as KL is 0 or not finite: eq. 9 and V in attention"]
    with style.drawing():
        _, both = figures.pairs({"a": made, "b": synthetic.results()}).axes
    assert {text.get_text() for text in both.texts} == {"0: a", "not finite: a"}


def test_a_small_difference_of_losses_looks_small():
    made = synthetic.results(names=("restoration_V_SA",), restoration=(0.1, 0.01))
    with style.drawing():
        loss, _ = figures.outcomes(made).axes
    assert loss.get_xlim()[0] <= 0


def test_without_text_only_the_change_is_drawn():
    made = synthetic.results(text="")
    with style.drawing():
        (ax,) = figures.outcomes(made).axes
        (both,) = figures.pairs({"a": made, "b": made}).axes
        shared = figures.pairs({"a": made, "b": synthetic.results()}).axes
    for one in (ax, both):
        assert "change of the weights" in one.get_xlabel()
    assert ["KL" in one.get_xlabel() for one in shared] == [False, True]


def test_labels_of_points_do_not_touch(tmp_path):
    made = synthetic.results()
    with style.drawing():
        figure = figures_sizes.sizes(made)
        render(figure, tmp_path)
    (ax,) = figure.axes
    labels = {"eq. 9", "eq. 14", "V in attention", "U in attention", "V in MLP", "U in MLP"}
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text() in labels]
    assert len(boxes) == len(made.variants)
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert not one.overlaps(other)


def test_colours_of_the_groups_differ_in_lightness():
    """So that they stay apart in print and for colour-blind readers; markers differ as well."""

    def lightness(colour: str) -> float:
        red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
        luminance = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2
        return 116 * math.cbrt(luminance) - 16

    assert len({group.marker for group in GROUPS.values()}) == len(GROUPS)
    raw, aligned, restored, other = (
        lightness(GROUPS[key].colour) for key in ("raw", "aligned", "restoration", "other")
    )
    assert aligned - raw > 15
    assert other - restored > 15


def test_the_same_results_give_the_same_bytes():
    made = synthetic.results()
    with style.drawing():
        first, second = (style.png(figures_sizes.sizes(made)) for _ in range(2))
    assert first == second
