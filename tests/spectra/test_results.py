"""Results survive saving and loading, and the summary says what the arrays say."""

from __future__ import annotations

import dataclasses
import inspect
import json
import zipfile

import jax
import numpy as np
import pytest

import svdjax
from svdjax.errors import InputError
from svdjax.spectra.results import Comparison, ProjectionResult
from svdjax.spectral import PairMetrics, analyse_stack


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """One tall projection, its last layer rank-deficient."""
    generator = np.random.default_rng(3)
    base = generator.standard_normal((3, 20, 12))
    base[2, :, 0] = base[2, :, 1]
    post = 0.9 * base + 0.01 * generator.standard_normal(base.shape)
    metrics = PairMetrics(*jax.device_get(analyse_stack(base, post, corner=5)))
    result = ProjectionResult("q_proj", "self_attn", (20, 12), 3, metrics)
    return Comparison(
        pair="a-b",
        base="A",
        post="B",
        family="llama",
        coverage={"analysed": ["x"], "left_out": {}, "notes": []},
        projections={"q_proj": result},
        options={"factorisation": "svd_f64", "corner": 5, "split_fused": False},
    )


@pytest.mark.parametrize("name", ["..", "", "/etc/x", "../../evil", "a\\b", "q\n\x00ü", "%2E%2E"])
def test_hostile_names_stay_inside_the_archive(comparison, tmp_path, name):
    result = dataclasses.replace(comparison["q_proj"], name=name)
    named = dataclasses.replace(comparison, projections={name: result})
    named.save(tmp_path)
    for file in ("spectra.npz", "vectors.npz"):
        for entry in zipfile.ZipFile(tmp_path / file).namelist():
            assert entry.count("/") == 1
            assert entry.isascii()
            assert not entry.startswith(("/", "../"))
    np.testing.assert_array_equal(Comparison.load(tmp_path)[name].nf, result.nf)


def test_round_trip(comparison, tmp_path):
    comparison.save(tmp_path)
    again = Comparison.load(tmp_path)
    assert again.summary() == comparison.summary()
    for mine, theirs in zip(comparison["q_proj"].metrics, again["q_proj"].metrics):
        np.testing.assert_array_equal(mine, theirs)
    assert {path.name for path in tmp_path.iterdir()} == {
        "spectra.npz",
        "vectors.npz",
        "summary.json",
    }


def test_summary_counts_deficient_layers_and_leaves_them_out(comparison, tmp_path):
    comparison.save(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    entry = summary["projections"]["q_proj"]
    assert summary["format_version"] == 1
    assert entry["shape"] == [20, 12]
    assert entry["rank_deficient_layers"] == summary["rank_deficient_layers"] == 1
    nf = comparison["q_proj"].nf
    assert np.isnan(nf[2])
    assert entry["nf_mean"] == pytest.approx(nf[:2].mean())
    assert entry["nf_max"] == pytest.approx(nf[:2].max())
    assert entry["nf_unrelated"] == pytest.approx(np.sqrt(1 / 20 + 1 / 12))
    # Of 12 singular values the top 10; the deficient layer's last one is beyond them.
    top = comparison["q_proj"].svsm[:, :10]
    assert entry["alpha_mean"] == pytest.approx(top.mean())
    assert entry["alpha_std"] == pytest.approx(top.std())
    assert entry["svsm_nan"] == 1


def test_a_whole_projection_without_nf_is_null(comparison):
    metrics = comparison["q_proj"].metrics
    none = metrics._replace(nf=np.full(3, np.nan))
    entry = Comparison(
        "p", "A", "B", "x", {}, {"q": ProjectionResult("q", "", (20, 12), 3, none)}
    ).summary()["projections"]["q"]
    assert entry["nf_mean"] is None
    assert entry["nf_over_unrelated"] is None


def test_corotation_is_in_files_and_summary(comparison, tmp_path):
    other = ProjectionResult("k_proj", "self_attn", (20, 12), 3, comparison["q_proj"].metrics)
    both = dataclasses.replace(
        comparison, projections={"q_proj": comparison["q_proj"], "k_proj": other}
    )
    both.save(tmp_path)
    q = both["q_proj"]
    with np.load(tmp_path / "spectra.npz") as spectra:
        for name in ("corotation", "corotation_z", "corotation_p", "outside_share", "alpha_ls"):
            np.testing.assert_array_equal(spectra[f"q_proj/{name}"], getattr(q, name))
            assert spectra[f"q_proj/{name}"].shape == (3,)
    with np.load(tmp_path / "vectors.npz") as vectors:
        np.testing.assert_array_equal(vectors["q_proj/alpha_ls"], q.alpha_ls)
    entry = json.loads((tmp_path / "summary.json").read_text())["projections"]["q_proj"]
    assert entry["corotation_mean"] == pytest.approx(q.corotation.mean())
    assert entry["corotation_layers"] == 3
    # Pooled by hand from what the files hold: numerators, denominators and variances add up.
    m = q.metrics
    weights = m.norm_offdiag**2
    excess = np.sum((m.corotation - 0.5) * weights)
    z = excess / np.sqrt(np.sum((m.corotation_std * weights) ** 2))
    assert entry["corotation_pooled"] == pytest.approx(0.5 + excess / weights.sum())
    assert entry["corotation_z"] == pytest.approx(z)
    # Two equal p of two tests: Holm doubles the smaller, and the other is no smaller.
    assert entry["corotation_p"] == pytest.approx(min(1, 2 * entry["corotation_p_alone"]))
    assert entry["alpha_ls_mean"] == pytest.approx(m.alpha_ls.mean())
    assert entry["outside_share_mean"] == pytest.approx(m.outside_share.mean())


def test_results_without_a_field_say_so(comparison, tmp_path):
    comparison.save(tmp_path)
    with np.load(tmp_path / "spectra.npz") as spectra:
        kept = {key: spectra[key] for key in spectra if key != "q_proj/corotation"}
    np.savez(tmp_path / "spectra.npz", **kept)
    with pytest.raises(InputError, match=r"'q_proj/corotation'.*run the sweep again"):
        Comparison.load(tmp_path)


def test_repr_is_a_table(comparison):
    text = repr(comparison)
    assert "A -> B (llama)" in text
    assert f"{comparison['q_proj'].alpha_mean:.4f}" in text
    assert "q_proj 20x12, 3 layers" in repr(comparison["q_proj"])


@pytest.mark.parametrize("name", ["summary.json", "spectra.npz", "vectors.npz"])
def test_damage_is_named(comparison, tmp_path, name):
    comparison.save(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="damaged"):
        Comparison.load(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=name):
        Comparison.load(tmp_path)


def test_another_format_is_refused(comparison, tmp_path):
    comparison.save(tmp_path)
    path = tmp_path / "summary.json"
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))
    with pytest.raises(InputError, match="format_version 99"):
        Comparison.load(tmp_path)


def test_what_the_package_offers_is_there_however_often_it_is_asked_for():
    for _ in range(2):
        for name in svdjax.__all__:
            assert not inspect.ismodule(getattr(svdjax, name)), name
