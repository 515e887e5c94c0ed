"""Eq. 13 is drawn and told of only where it is defined; clusters are marked; legends are honest."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from svdjax.report import style
from svdjax.report.panels import drawn
from svdjax.spectra import figures_vectors
from svdjax.spectra.findings import findings
from svdjax.spectra.matrices import pair_plots
from svdjax.spectra.results import ProjectionResult
from svdjax.spectra.tables import FIT_NAMES, pair_tables
from tests.report import synthetic
from tests.report.pages import Page, pair_page
from tests.report.pixels import assert_alive

# How many singular values come in pairs, from the largest on.
TWINS = 4


@pytest.fixture(scope="module")
def square() -> ProjectionResult:
    """Three layers, the second of which has a post of the other determinant."""
    rng = np.random.default_rng(4)
    base = rng.standard_normal((3, 16, 16))
    post = base + 0.01 * rng.standard_normal(base.shape)
    u, s, vt = np.linalg.svd(post[1])
    post[1] = (u * np.r_[np.ones(15), -1]) * s @ vt
    return synthetic.result("q_proj", "self_attn", base, post)


@pytest.fixture(scope="module")
def clustered() -> ProjectionResult:
    rng = np.random.default_rng(5)
    s = np.sort(rng.uniform(1, 2, 16))[::-1].copy()
    s[1:TWINS:2] = s[0:TWINS:2]
    u, v = (np.linalg.qr(rng.standard_normal((3, 16, 16)))[0] for _ in range(2))
    base = u * s @ v.swapaxes(1, 2)
    return synthetic.result(
        "q_proj", "self_attn", base, base + 0.1 * rng.standard_normal(base.shape)
    )


def legend(plot) -> list[str]:
    return [line["label"] for line in plot.panels[0]["series"]]


def test_matrices_without_a_common_rotation_are_counted_and_not_drawn(square, clustered, tmp_path):
    assert list(square.ambiguous_rotation) == [False, True, False]
    assert square.summary()["ambiguous_rotation_layers"] == 1
    one = synthetic.comparison([square])
    (line,) = (text for text in findings(one, None) if text.startswith("Equation 13"))
    assert "in 1 of 3 matrices (q_proj) Q1 + Q2 is singular" in line
    panels, _ = drawn(one.projections)
    (_, residuals) = pair_plots(panels)
    for line in residuals.panels[0]["series"]:
        assert list(np.isfinite(line["y"])) == [True, False, True]
    both = synthetic.comparison([square, dataclasses.replace(clustered, name="o_proj")])
    text = Page(pair_page(both, tmp_path)).text
    assert "Left out: 1 of 6 matrices in which no common rotation is the nearest" in text
    row = pair_tables(one, None)["layers"].rows[1]
    assert np.isnan([row["residual_q1"], row["residual_asymmetry"], row["fit_common_error"]]).all()
    assert np.isfinite([row["nf"], row["fit_optimal_error"]]).all()


def test_where_all_have_one_nothing_is_said(square):
    one = synthetic.comparison([synthetic.part(square, 0, name="q_proj")])
    assert not [text for text in findings(one, None) if text.startswith("Equation 13")]


def test_legends_name_what_was_computed(square):
    nan = np.full(square.layers, np.nan)
    dear = {"fit_common_error", "common_sigma_min", "residual_q1", "residual_q2"}
    metrics = square.metrics._replace(**dict.fromkeys(dear, nan))
    cheap = dataclasses.replace(square, metrics=metrics)
    whole, _ = pair_plots(drawn({"q_proj": square})[0])
    # The asymmetry alone is NF, which has a plot.
    (some,) = pair_plots(drawn({"q_proj": cheap})[0])
    assert legend(whole) == list(FIT_NAMES.values())
    assert legend(some) == [v for k, v in FIT_NAMES.items() if k != "common"]


def marks(ax) -> list[list[float]]:
    """Middles of the coloured edges of a panel: of rows, of columns."""
    found = []
    for lines, axis in zip(ax.collections, (1, 0)):
        assert tuple(lines.get_colors()[0]) == to_rgba(figures_vectors._CLUSTER)
        found.append([float(np.mean(path.vertices[:, axis])) for path in lines.get_paths()])
    return found


def test_rows_and_columns_of_clusters_are_marked(clustered, square, tmp_path):
    base, post = clustered.clustered
    assert np.flatnonzero(base[0]).tolist() == list(range(TWINS))
    assert not post.any()
    panels, _ = drawn({"q_proj": clustered})
    assert figures_vectors.has_clusters(panels)
    with style.drawing():
        figure = figures_vectors.corners(panels[0])
        assert_alive(figure, tmp_path)
        for ax in figure.axes[:3]:
            assert [float(x) for x in range(TWINS)] == marks(ax)[0]
        # Base does not enter I_orth: its rows and columns are post's.
        assert not figure.axes[3].collections
        assert not any(ax.collections for ax in figures_vectors.orthogonality(panels).axes[:2])
    rows = pair_tables(synthetic.comparison([clustered]), None)["layers"].rows
    assert {(row["clustered_base"], row["clustered_post"]) for row in rows} == {(TWINS, 0)}
    assert not figures_vectors.has_clusters(drawn({"q_proj": square})[0])
