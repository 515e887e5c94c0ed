"""svdjax from Python: what docs/python.md shows prints what it says, and the edges of it."""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import svdjax
from svdjax import reference
from svdjax.errors import InputError
from svdjax.options import default_config
from svdjax.spectra import frames
from svdjax.spectral import PairMetrics
from svdjax.sweep.outcome import SweepOutcome
from svdjax.sweep.run import run_sweep
from tests.report import synthetic

ROOT = pathlib.Path(__file__).resolve().parents[1]
HOSTILE = '<script>alert(1)</script>"><img onerror=x>'


class Pages:
    """Pages without drawing."""

    @staticmethod
    def write_report(workdir: Any, comparisons: Any, **_: Any) -> pathlib.Path:
        for folder in (
            pathlib.Path(workdir),
            *(pathlib.Path(workdir) / pair for pair in comparisons),
        ):
            folder.mkdir(exist_ok=True)
            (folder / "report.html").write_text(" ".join(comparisons))
        return pathlib.Path(workdir) / "report.html"


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> SweepOutcome:
    """A sweep of two shipped models, in runs/instruct of a folder."""
    sides = {"base": str(reference.path("base")), "post": str(reference.path("instruct"))}
    config = default_config(
        "pair", {"pair": sides}, stages=("spectra", "report"), measure="vectors", devices=1
    )
    return run_sweep(config, tmp_path_factory.mktemp("python") / "runs" / "instruct", Pages)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """Addresses that a browser was asked to open."""
    opened: list[str] = []
    monkeypatch.setattr(frames.webbrowser, "open", opened.append)
    return opened


def test_the_document_prints_what_it_says(swept, opened):
    pytest.importorskip("pandas")
    pytest.importorskip("xarray")
    text = (ROOT / "docs" / "python.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == text.count("```python")
    names: dict[str, Any] = {}
    with contextlib.chdir(swept.workdir.parents[1]):
        for code, printed in blocks:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(code, names)
            assert out.getvalue() == printed
    assert opened == [(swept.workdir / "report.html").as_uri()]


def test_dir_lists_what_there_is_and_loads_nothing():
    code = (
        "import sys, svdjax; assert 'jax' not in sys.modules; print(*dir(svdjax));"
        "[getattr(svdjax, name) for name in dir(svdjax)]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(svdjax.__all__)
    assert {"compare", "compare_params", "compare_matrices", "load"} <= set(svdjax.__all__)


def test_what_is_loaded_is_what_was_run(swept):
    again = svdjax.load(swept.workdir)
    assert list(again) == ["pair"]
    assert again.summary().splitlines()[1:] == swept.summary().splitlines()[1:]
    np.testing.assert_array_equal(again["pair"]["q_proj"].nf, swept["pair"]["q_proj"].nf)
    (comparison,) = svdjax.load(swept.workdir / "pair").values()
    assert repr(comparison) == repr(again["pair"])
    with pytest.raises(KeyError, match=r"no pair 'pear'; did you mean 'pair'\?"):
        again["pear"]
    with pytest.raises(KeyError, match=r"no projection 'x'; there are q_proj, k_proj"):
        comparison["x"]
    assert "q_proj" in comparison
    assert "x" not in comparison
    assert list(comparison) == list(comparison.projections)


def test_what_cannot_be_loaded_is_said(swept, tmp_path):
    with pytest.raises(
        InputError, match=r"neither sweep.json nor summary.json: expected the workd"
    ):
        svdjax.load(tmp_path)
    state = json.loads((swept.workdir / "sweep.json").read_text())
    (tmp_path / "sweep.json").write_text(json.dumps(state | {"status": "stopped"}))
    with pytest.raises(InputError, match=r"not finished .status stopped.: give its command again"):
        svdjax.load(tmp_path)
    for config in ({}, {"pairs": {"pair": {"base": "b"}}}, {"pairs": []}):
        (tmp_path / "sweep.json").write_text(json.dumps(state | {"config": config}))
        with pytest.raises(InputError, match=r"sweep.json is damaged"):
            svdjax.load(tmp_path)


def test_a_pair_without_a_page_gets_one(swept, opened, monkeypatch):
    monkeypatch.setattr("svdjax.sweep.pages.write_report", Pages.write_report)
    page = synthetic.comparison([], pair="new").show()
    assert page.read_text() == "new"
    assert opened == [page.as_uri()]
    assert svdjax.load(swept.workdir)["pair"].show() == swept.workdir / "pair" / "report.html"
    with pytest.raises(InputError, match=r"has no report.html: sweep with 'report' among"):
        SweepOutcome(swept.workdir, {}, None).show()


@pytest.mark.parametrize("library", ["pandas", "xarray"])
def test_a_missing_library_is_one_line(swept, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    method = {"pandas": "to_dataframe", "xarray": "to_xarray"}[library]
    for results in (swept, swept["pair"]):
        with pytest.raises(
            InputError, match=rf"{method} needs {library} .*: pip install {library}"
        ):
            getattr(results, method)()


def test_arrays_with_labels_hold_every_array(swept):
    pytest.importorskip("xarray")
    result = swept["pair"]
    dataset = swept.to_xarray()
    assert set(dataset.data_vars) == set(PairMetrics._fields)
    for name, one in result.projections.items():
        part = dataset.sel(pair="pair", projection=name)
        np.testing.assert_array_equal(part.nf, one.nf)
        np.testing.assert_array_equal(part.svsm[:, : one.svsm.shape[1]], one.svsm)
        assert np.isnan(part.svsm[:, one.svsm.shape[1] :]).all()
        np.testing.assert_array_equal(part.i_orth, one.metrics.i_orth)


def test_a_notebook_shows_names_as_text(swept):
    one = synthetic.result(HOSTILE, "", *np.ones((2, 1, 16, 16)))
    shown = synthetic.comparison([one])._repr_html_()
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "&lt;script&gt;" in shown
    assert "<th>stands out</th>" in swept._repr_html_()


def tree(rng: np.random.Generator, shape: tuple[int, ...] = (12, 8)) -> dict[str, Any]:
    return {"kernel": rng.standard_normal(shape).astype(np.float32)}


def test_parameters_are_compared_by_path():
    rng = np.random.default_rng(0)
    base = {f"layers_{n}": {"up": tree(rng), "norm": {"scale": np.ones(8)}} for n in range(11)}
    base |= {
        "embed": {"embedding": rng.standard_normal((8, 12))},
        "step": {"kernel": np.eye(3, dtype=int)},
    }
    post = jax.tree.map(lambda w: w if w.dtype == int else 1.5 * w, base)
    post["layers_10"]["up"]["kernel"] *= 2
    post |= {"head": tree(rng)}
    result = svdjax.compare_params(base, post, measure="vectors", devices=1)
    (up,) = result.projections.values()
    assert (up.name, up.shape, up.layers) == ("layers_*/up", (12, 8), 11)
    np.testing.assert_allclose(up.alpha_ls, [1.5] * 10 + [3], rtol=1e-6)
    assert result.coverage["left_out"]["embed/embedding"] == "embedding"
    assert result.coverage["left_out"]["head/kernel"] == "only in post"
    assert result.coverage["left_out"]["step/kernel"].startswith("not floating point")
    assert len(result.coverage["analysed"]) == 11


def test_stacks_and_flax_states_are_compared():
    rng = np.random.default_rng(0)
    stacked = {"layers": {"up": tree(rng, (3, 12, 8))}}
    state = nn.Dense(8).init(jax.random.key(0), jnp.ones((1, 12), jnp.float32))
    for params, name, layers in ((stacked, "layers/up", 3), (state, "params", 1)):
        post = jax.tree.map(lambda w: w * jnp.asarray(2, w.dtype), params)
        result = svdjax.compare_params(params, post, measure="vectors", devices=1)
        assert list(result.projections) == [name]
        assert result[name].layers == layers
        np.testing.assert_allclose(result[name].alpha_mean, 2, rtol=1e-6)


def test_what_cannot_be_compared_is_said():
    rng = np.random.default_rng(0)
    heads = {"o": tree(rng, (2, 4, 12)), "q": tree(rng, (12, 2, 4))}
    with pytest.raises(InputError, match=r"found \[2, 4, 12\] at o/kernel, \[12, 2, 4\] at q/ker"):
        svdjax.compare_params(heads, heads)
    with pytest.raises(
        InputError, match=r"no matrix of the same path and shape.*a/kernel: only in"
    ):
        svdjax.compare_params({"a": tree(rng)}, {"b": tree(rng)})
    with pytest.raises(
        InputError, match=r"shapes \[2, 3\] and \[3, 2\]: expected two of one shape"
    ):
        svdjax.compare_matrices(np.ones((2, 3)), np.ones((3, 2)))
    with pytest.raises(InputError, match="base: tensor matrix holds 1 NaN"):
        svdjax.compare_matrices(np.array([[np.nan, 1], [0, 1]]), np.eye(2))
    with pytest.raises(InputError, match="measure"):
        svdjax.compare_matrices(np.eye(2), np.eye(2), measure="some")
