"""Figures of probes: what is drawn is what was given, nothing warns, touches or is cut off."""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure

from svdjax.probe import figures
from svdjax.probe.results import differences
from svdjax.report import style
from tests.report.pages import HOSTILE
from tests.report.pixels import assert_alive, assert_ticks_apart, render

NAMES = ("original", "eq. 9, replaced", "restored, V in attention", "ablation_U_MLP")
PAPER = (0, 3, 5, 8, 10, 13, 15, 18, 20, 23, 25)
Made = dict[str, np.ndarray]


def names(count: int) -> list[str]:
    return [NAMES[i] if i < len(NAMES) else f"model number {i}" for i in range(count)]


def entropies(count: int = 2, blocks: int = 28, heads: int = 12) -> Made:
    rng = np.random.default_rng(blocks)
    return {name: 5 * rng.random((blocks, heads)) for name in names(count)}


def cka(count: int = 2, first: int = 28, other: int = 28) -> Made:
    rng = np.random.default_rng(first)
    return {name: rng.random((first, other)) for name in names(count)}


def maps(count: int = 2, length: int = 12) -> Made:
    rng = np.random.default_rng(length)
    made = {name: np.tril(rng.random((length, length)) ** 8 + 1e-9) for name in names(count)}
    return {name: one / one.sum(axis=1, keepdims=True) for name, one in made.items()}


def spoilt(made: Made) -> Made:
    """With a hole, an infinity, and a model of which nothing is left."""
    first, second = list(made)[:2]
    made[first][5, 2], made[first][7, 0], made[second][:] = np.nan, np.inf, np.nan
    return made


def renamed(made: Made) -> Made:
    odd = ("$x^2$ $", "重み", "a\nb\x00", "w" * 300, HOSTILE, "", " ".join(["many words"] * 9))
    return dict(zip(odd, made.values()))


CASES: dict[str, Callable[[], Figure]] = {
    f"{kind}, {case}": make
    for kind, draw, data in (
        ("curves", lambda made: figures.entropy_curves(made, first="original"), entropies),
        ("entropies", figures.entropy_heatmaps, entropies),
        ("cka", lambda made: figures.cka_heatmaps(made, first="original"), cka),
        ("maps", figures.attention_maps, maps),
    )
    for case, make in {
        "one": lambda draw=draw, data=data: draw(data(1)),
        "nothing left": lambda draw=draw, data=data: draw({"a": np.nan * data(1)["original"]}),
        "odd names": lambda draw=draw, data=data: draw(renamed(data(7))),
        "one block": lambda draw=draw, data=data: draw(data(2, 1)),
        "all 0": lambda draw=draw, data=data: draw({"a": 0 * data(1)["original"]}),
    }.items()
    # Titles of all heatmaps are made alike, and take long; one CKA panel has a test of its own.
    if (case != "odd names" or kind in ("curves", "cka")) and (kind, case) != ("cka", "one")
}
CASES |= {
    "curves, spoilt": lambda: figures.entropy_curves(spoilt(entropies(3))),
    "maps, four": lambda: figures.attention_maps(maps(4)),
    "curves, 25": lambda: figures.entropy_curves(entropies(25), first="original"),
    "curves, 12, one block": lambda: figures.entropy_curves(entropies(12, 1)),
    "curves, 48 blocks": lambda: figures.entropy_curves(entropies(12, 48)),
    "curves, the paper's blocks": lambda: figures.entropy_curves(
        entropies(4, 11), blocks=PAPER, first="original", title="$GSM8K$"
    ),
    "entropies, the paper's blocks": lambda: figures.entropy_heatmaps(
        entropies(4, 11), blocks=PAPER
    ),
    "curves, one head": lambda: figures.entropy_curves(entropies(2, 4, 1)),
    "entropies, one head": lambda: figures.entropy_heatmaps(entropies(2, 4, 1)),
    "cka, other depths": lambda: figures.cka_heatmaps(cka(5, 48, 4), first="w" * 90),
    "maps, long": lambda: figures.attention_maps(maps(2, 200), log=False),
}


def assert_texts_fit(figure: Figure) -> None:
    """Titles, labels and keys are inside and apart; the figure has been rendered."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    texts = [text for legend in figure.legends for text in legend.get_texts()]
    for ax in figure.axes:
        texts += [ax.title, ax.xaxis.label, ax.yaxis.label]
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text().strip()]
    for box in boxes:
        assert min(box.x0, box.y0) >= -1
        assert box.x1 <= width + 1
        assert box.y1 <= height + 1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def shown(ax: Axes) -> np.ndarray:
    """What a panel's image holds, NaN where it is masked."""
    return np.ma.filled(np.ma.asarray(ax.images[0].get_array(), dtype=np.float64), np.nan)


def panels(figure: Figure, count: int) -> list[Axes]:
    """The axes without the colour bar, which comes last."""
    assert len(figure.axes) == count + 1
    return figure.axes[:count]


@pytest.mark.parametrize("case", CASES)
def test_every_panel_is_drawn_and_readable(case, tmp_path: pathlib.Path):
    with style.drawing():
        figure = CASES[case]()
        assert_alive(figure, tmp_path)
        assert_ticks_apart(figure)
        assert_texts_fit(figure)


@pytest.mark.parametrize("count", [2, 12])
def test_curves_are_means_over_heads_and_bands_their_range(count):
    given = entropies(count, 11)
    with style.drawing():
        figure = figures.entropy_curves(given, blocks=PAPER, first="eq. 9, replaced", title="GSM8K")
    (ax,) = figure.axes
    assert (ax.get_title(), ax.get_xlabel()) == ("GSM8K", "block")
    assert "nats" in ax.get_ylabel()
    assert list(ax.get_xticks()) == list(PAPER)
    for line, values in zip(ax.lines, given.values(), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), PAPER)
        np.testing.assert_allclose(np.asarray(line.get_ydata()), values.mean(axis=1))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(given)
    strongest = max(ax.lines, key=lambda line: (line.get_linewidth(), line.get_zorder()))
    assert strongest is ax.lines[1]
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines}
    assert len(looks) == count
    # All have bands while there are few; then only the one that the others are held against.
    bands = [one for one in ax.collections if len(one.get_paths())]
    banded = list(given) if count == 2 else ["eq. 9, replaced"]
    assert len(bands) == len(banded)
    for band, name in zip(bands, banded):
        corners = np.asarray(band.get_paths()[0].vertices)
        for x, low, high in zip(PAPER, given[name].min(axis=1), given[name].max(axis=1)):
            at = corners[corners[:, 0] == x, 1]
            np.testing.assert_allclose((at.min(), at.max()), (low, high))


def test_25_curves_differ():
    with style.drawing():
        (ax,) = figures.entropy_curves(entropies(25), first="original").axes
    looks = {(line.get_color(), line.get_marker()) for line in ax.lines}
    assert len(looks) == 25


def test_curves_of_models_of_other_depths():
    given = {"deep": entropies(1, 9)["original"], "flat": entropies(1, 4)["original"]}
    with style.drawing():
        (ax,) = figures.entropy_curves(given).axes
    assert [len(np.asarray(line.get_xdata())) for line in ax.lines] == [9, 4]
    with pytest.raises(ValueError), style.drawing():
        figures.entropy_curves(given, blocks=range(9))


def test_curves_have_gaps_where_a_head_is_not_finite(tmp_path):
    given = entropies(2, 9)
    given["original"][3, 1], given["original"][5, 0] = np.nan, np.inf
    given["eq. 9, replaced"][:] = np.nan
    with style.drawing():
        figure = figures.entropy_curves(given, first="original")
        render(figure, tmp_path)
    (ax,) = figure.axes
    drawn = np.asarray(ax.lines[0].get_ydata())
    assert np.flatnonzero(np.isnan(drawn)).tolist() == [3, 5]
    # Block 4 stands alone, and has a line for its band.
    corners = [np.asarray(part.vertices) for one in ax.collections for part in one.get_paths()]
    (alone,) = (one for one in corners if len(one) == 2)
    heads = given["original"][4]
    np.testing.assert_allclose(alone, [[4, heads.min()], [4, heads.max()]])
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["original", "eq. 9, replaced (not finite)"]
    with style.drawing():
        (ax,) = figures.entropy_curves({"a": np.full((3, 2), np.nan)}).axes
    assert [text.get_text() for text in ax.texts] == ["not finite in any block"]


def test_entropies_are_drawn_on_one_scale():
    given = entropies(3)
    given["original"] /= 2
    with style.drawing():
        figure = figures.entropy_heatmaps(given)
    scales = set()
    for ax, (name, values) in zip(panels(figure, 3), given.items(), strict=True):
        np.testing.assert_array_equal(shown(ax), values.T)
        assert ax.get_title() == name
        scales.add(ax.images[0].get_clim())
    assert scales == {(0.0, max(values.max() for values in given.values()))}
    assert not figure.legends


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (3, 1, 3), (25, 5, 5)])
def test_cka_is_drawn_in_square_cells_of_one_scale(count, rows, columns, tmp_path):
    given = cka(count, 28, 24)
    with style.drawing():
        figure = figures.cka_heatmaps(given, first="original")
        assert_alive(figure, tmp_path)
        assert_ticks_apart(figure)
        assert_texts_fit(figure)
    axes = panels(figure, count)
    for ax, (name, values) in zip(axes, given.items(), strict=True):
        np.testing.assert_array_equal(shown(ax), values)
        assert ax.get_title().replace("\n", " ") == name
        assert ax.images[0].get_clim() == (0.0, 1.0)
        assert ax.images[0].origin == "lower"
        box = ax.get_window_extent()
        assert box.height / box.width == pytest.approx(28 / 24)
    places = [(round(ax.get_position().x0, 3), round(ax.get_position().y0, 3)) for ax in axes]
    assert (len({y for _, y in places}), len({x for x, _ in places})) == (rows, columns)
    assert [ax.get_ylabel() for ax in axes if ax.get_ylabel()] == ["block of original"] * rows
    labels = [ax.get_xlabel() for ax in axes if ax.get_xlabel()]
    assert labels == ["block of the model above"] * columns
    assert not figure.legends


def test_values_beyond_the_scale_of_cka_have_arrows():
    def arrows(*values: float) -> str:
        with style.drawing():
            figure = figures.cka_heatmaps({"a": np.array([[0.5, *values]])}, first="b")
        return figure.axes[-1]._colorbar.extend  # type: ignore[attr-defined]

    assert arrows(0.0, 1.0) == "neither"
    assert arrows(-1e-12, 1 + 1e-12) == "neither"
    assert arrows(-0.1) == "min"
    assert arrows(1.1) == "max"
    assert arrows(-0.1, 1.1, np.nan) == "both"


def test_attention_is_drawn_below_the_diagonal():
    given = maps(2, 30)
    given["original"][4, 9] = 0.7
    lower = np.tri(30, dtype=bool)
    with style.drawing():
        figure = figures.attention_maps(given)
        linear = figures.attention_maps(given, log=False)
    for made, scale in ((figure, LogNorm), (linear, Normalize)):
        for ax, values in zip(panels(made, 2), given.values(), strict=True):
            np.testing.assert_array_equal(shown(ax)[lower], values[lower])
            assert np.isnan(shown(ax)[~lower]).all()
            assert type(ax.images[0].norm) is scale
            assert ax.images[0].origin == "upper"
        # What is above the diagonal is not undefined.
        assert not made.legends
    # Weights too small for the scale have its lowest colour.
    image = figure.axes[0].images[0]
    assert image.to_rgba(np.zeros((1, 1)))[0, 0].tolist() == list(image.get_cmap()(0))


def test_differences_are_those_from_the_first_on_a_scale_with_0_in_its_middle(tmp_path):
    given = maps(3, 20)
    given["of another length"] = maps(1, 9)["original"]
    changes = differences(given, "original")
    assert list(changes) == list(given)[1:3]
    lower = np.tri(20, dtype=bool)
    with style.drawing():
        figure = figures.attention_differences(changes)
        assert_alive(figure, tmp_path)
        assert_texts_fit(figure)
        assert_alive(figures.attention_differences({"same": np.zeros((4, 4))}), tmp_path)
    most = max(np.abs(values).max() for values in changes.values())
    for ax, (name, values) in zip(panels(figure, 2), changes.items(), strict=True):
        np.testing.assert_array_equal(values, given[name] - given["original"])
        np.testing.assert_array_equal(shown(ax)[lower], values[lower])
        assert np.isnan(shown(ax)[~lower]).all()
        assert ax.images[0].get_clim() == (-most, most)
        assert ax.get_title() == name


HEATMAPS: dict[str, Callable[[Made], Figure]] = {
    "entropies": figures.entropy_heatmaps,
    "cka": lambda made: figures.cka_heatmaps(made, first="original"),
    "maps": figures.attention_maps,
}


@pytest.mark.parametrize(("kind", "data"), zip(HEATMAPS, (entropies, cka, maps)))
def test_what_is_not_defined_is_hatched(kind, data, tmp_path):
    with style.drawing():
        figure = HEATMAPS[kind](spoilt(data(3)))
        assert_alive(figure, tmp_path)
        assert_texts_fit(figure)
    grounds = [[one.get_hatch() for one in ax.collections] for ax in panels(figure, 3)]
    assert grounds == [["////"], ["////"], []]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not defined"]


def test_hatches_are_seen(tmp_path):
    with style.drawing():
        figure = figures.cka_heatmaps({"a": np.full((6, 6), np.nan)}, first="a")
        pixels = render(figure, tmp_path)
    box = figure.axes[0].get_window_extent()
    x, y = int(box.x0) + 3, int(pixels.shape[0] - box.y1) + 3
    inside = pixels[y : y + 60, x : x + 60].reshape(-1, 3)
    # Grey on grey: neither white nor a colour of the scale.
    assert np.ptp(inside, axis=1).max() < 0.1
    light, dark = (np.array(to_rgba(c)[:3]) for c in ("#e5e7eb", "#9ca3af"))
    assert np.abs(inside.max(0) - light).max() < 0.02
    assert np.abs(inside.min(0) - dark).max() < 0.1


def test_inputs_stay_as_they_are():
    for draw, made in (
        (figures.entropy_curves, spoilt(entropies(2))),
        (figures.entropy_heatmaps, spoilt(entropies(2))),
        (lambda one: figures.cka_heatmaps(one, first="a"), spoilt(cka(2))),
        (figures.attention_maps, spoilt(maps(2))),
    ):
        copies = {name: values.copy() for name, values in made.items()}
        with style.drawing():
            draw(made)
        for name, values in made.items():
            np.testing.assert_array_equal(values, copies[name])


def test_the_same_numbers_give_the_same_bytes():
    with style.drawing():
        for draw in (
            lambda: figures.entropy_curves(spoilt(entropies(3)), first="original"),
            lambda: figures.cka_heatmaps(cka(1), first="original"),
        ):
            first, second = (style.png(draw()) for _ in range(2))
            assert first == second
