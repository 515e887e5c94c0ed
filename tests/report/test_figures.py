"""No panel is empty, nothing warns, whatever the shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import matplotlib
import numpy as np
import pytest

from svdjax.report import style
from svdjax.report.panels import MOST_PANELS, drawn
from svdjax.spectra import figures_pairs, figures_svsm, figures_vectors
from svdjax.spectra.results import Comparison, ProjectionResult
from tests.report import synthetic
from tests.report.pixels import assert_alive, assert_ticks_apart, render

DRAW: dict[str, Callable] = {
    "heatmaps": figures_svsm.heatmaps,
    "bands": figures_svsm.bands,
    "spectra": figures_svsm.spectra,
    "nf": figures_vectors.nf,
    "orthogonality": figures_vectors.orthogonality,
    "corners": lambda panels: figures_vectors.corners(panels[0]),
    "pairs_bands": lambda panels: figures_pairs.bands({"a": panels, "b": panels[:1]}),
    "pairs_nf": lambda panels: figures_pairs.nf({"a": panels, "b": panels[:1]}),
    "pairs_share": lambda panels: figures_pairs.share({"a": panels, "b": panels[:1]}),
    "pairs_svsm": lambda panels: figures_pairs.svsm({"a": panels, "b": panels[:1]}),
}


def stack(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def deficient() -> ProjectionResult:
    base = stack(2, 4, 3) @ stack(2, 3, 4, seed=1)
    return synthetic.result("q_proj", "self_attn", base, 0.9 * base)


def unknown(count: int) -> Comparison:
    one = synthetic.result("w", "", stack(1, 4, 4), stack(1, 4, 4, seed=1))
    kinds = [a + b for a in "abcde" for b in "fghijklm"]
    names = [f"encoder.a_rather_long_block_name.{i}.{kinds[i % 40]}.weight" for i in range(count)]
    return synthetic.comparison([dataclasses.replace(one, name=name) for name in names])


CASES: dict[str, Callable[[], list[ProjectionResult]]] = {
    "one layer": lambda: [synthetic.result("q_proj", "", stack(1, 4, 4), stack(1, 4, 4, seed=1))],
    "rank one": lambda: [synthetic.result("gate", "", stack(2, 1, 9), stack(2, 1, 9, seed=1))],
    "deficient": lambda: [deficient()],
    "zero": lambda: [synthetic.result("w", "", np.zeros((2, 4, 4)), np.zeros((2, 4, 4)))],
    "zero post": lambda: [synthetic.result("w", "", stack(2, 4, 4), np.zeros((2, 4, 4)))],
    "same": lambda: [synthetic.result("w", "", stack(2, 4, 4), stack(2, 4, 4))],
    "different depths": lambda: [
        synthetic.result("a", "", stack(2, 4, 4), 1.1 * stack(2, 4, 4)),
        synthetic.result("b", "", stack(1, 4, 4), stack(1, 4, 4, seed=1)),
    ],
    "odd names": lambda: [
        synthetic.result(name, "", stack(1, 4, 4), stack(1, 4, 4, seed=1))
        for name in ("$x^2$ $", "重み", "a\nb\x00", "w" * 300)
    ],
}


# Where a case is most likely to leave a figure empty or to make it warn.
ALONE = dict.fromkeys(CASES, ("heatmaps", "nf")) | {
    "zero": tuple(DRAW),
    "rank one": ("heatmaps", "orthogonality", "spectra", "corners"),
    "one layer": ("bands", "spectra", "pairs_bands", "pairs_nf"),
    "odd names": ("pairs_svsm",),
}
ODD = {
    name: dataclasses.replace(one, name=name)
    for case, make in CASES.items()
    for i, one in enumerate(make())
    for name in [f"{case}.{one.name[:20]}.{i}"]
}


@pytest.mark.parametrize("draw", DRAW)
def test_no_panel_is_empty_whatever_is_drawn_beside(draw, tmp_path):
    panels, left_out = drawn(ODD)
    assert not left_out
    with style.drawing():
        assert_alive(DRAW[draw](panels), tmp_path)


@pytest.mark.parametrize("case", CASES)
def test_no_panel_is_empty_when_alone(case, tmp_path):
    panels, _ = drawn({one.name: one for one in CASES[case]()})
    with style.drawing():
        for draw in ALONE[case]:
            assert_alive(DRAW[draw](panels), tmp_path)


def test_seven_projections_of_many_layers_fill_every_panel(related, tmp_path):
    deep = {one.name: synthetic.deepen(one, 10) for one in related.projections.values()}
    panels, _ = drawn(deep)
    with style.drawing():
        for name in ("nf", "pairs_svsm"):
            figure = DRAW[name](panels)
            assert_alive(figure, tmp_path)
            assert_ticks_apart(figure)


def test_hundreds_of_unknown_matrices_stay_bounded_and_say_so(tmp_path):
    comparison = unknown(300)
    panels, left_out = drawn(comparison.projections)
    assert len(panels) == MOST_PANELS
    assert f"{MOST_PANELS} of 40 groups" in left_out
    with style.drawing():
        for name in ("heatmaps", "orthogonality"):
            pixels = render(DRAW[name](panels), tmp_path)
            assert max(pixels.shape) < 2600
            assert pixels.std() > 0.02


def test_one_layer_tensors_are_put_together_for_drawing():
    names = [f"h.{i}.attn2.w" for i in (10, 9, 0)] + ["h.0.mlp.w", "head"]
    results = [synthetic.result(n, "", stack(1, 4, 4), stack(1, 4, 4, seed=1)) for n in names]
    panels, _ = drawn({one.name: one for one in results})
    assert [panel.name for panel in panels] == ["h.*.attn2.w", "h.0.mlp.w", "head"]
    assert panels[0].layers == ("0", "9", "10")
    assert panels[0].stack("svsm").shape == (3, 4)


def test_colours_are_shared_and_undefined_ratios_have_their_own(related, tmp_path):
    panels, _ = drawn({"q_proj": deficient()})
    with style.drawing():
        figure = figures_svsm.heatmaps(panels)
        pixels = render(figure, tmp_path)
    yellow = (np.abs(pixels - np.array([0.949, 0.761, 0.0])) < 0.01).all(axis=-1)
    assert yellow.mean() > 0.02
    many, _ = drawn(related.projections)
    with style.drawing():
        images = [image for ax in figures_svsm.heatmaps(many).axes for image in ax.images]
    assert len({id(image.norm) for image in images}) == 1


def test_a_long_spectrum_is_thinned_by_means_that_keep_nan():
    ratios = np.ones((2, 4000))
    ratios[0, 3990:] = np.nan
    thin = figures_svsm._thinned(ratios)
    assert thin.shape[1] <= 400
    assert np.isnan(thin[0, -1])
    assert np.allclose(thin[1], 1)


def test_drawing_leaves_matplotlibs_settings_alone():
    before = dict(matplotlib.rcParams)
    with style.drawing():
        assert matplotlib.rcParams["font.size"] == 8.5
    assert dict(matplotlib.rcParams) == before


def test_the_same_results_give_the_same_bytes():
    panels, _ = drawn({"q_proj": deficient()})
    with style.drawing():
        assert style.png(figures_svsm.bands(panels)) == style.png(figures_svsm.bands(panels))
