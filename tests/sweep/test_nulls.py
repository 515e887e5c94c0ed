"""The nulls stage of a sweep, in process, on a model whose matrices have one shape."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from svdjax.atomic import read_npz, write_npz
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError, Interrupted
from svdjax.nulls.analytic import Analytic, analytic_nulls, chosen_layers
from svdjax.nulls.results import NullResults
from svdjax.options import default_config
from svdjax.spectra.results import Comparison
from svdjax.sweep.config import read_config
from svdjax.sweep.run import run_sweep
from tests.support import tiny
from tests.support.schemas import check_files
from tests.support.workers import ThreadWorkers
from tests.sweep import harness

LAYERS = 3


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Base and post: k_proj is only scaled, v_proj's first layer has rank 15 of 16."""
    root = tmp_path_factory.mktemp("square")
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_key_value_heads": 4}
    base = tiny.make_checkpoint(
        root / "base", "llama", seed=3, dtype="bfloat16", num_hidden_layers=LAYERS, **sizes
    )
    tensors = tiny.read_tensors(base)
    rng = np.random.default_rng(4)
    moved = {}
    for name, tensor in tensors.items():
        value = tensor.astype(np.float32)
        step = 0.1 * rng.standard_normal(value.shape) * np.sqrt(np.mean(value**2))
        moved[name] = (0.5 * value + step * ("k_proj" not in name)).astype(tensor.dtype)
    name = "model.layers.0.self_attn.v_proj.weight"
    moved[name] = np.concatenate([moved[name][:1], moved[name][:-1]])
    config = json.loads((base / "config.json").read_text())
    return base, tiny.write_checkpoint(root / "post", config, moved)


def config(pair, **nulls):
    base, post = pair
    return default_config(
        "nulls",
        {"pair": {"base": str(base), "post": str(post)}},
        stages=("spectra", "nulls"),
        nulls={"draws": 19, "layers": 2, "seed": 5} | nulls,
        group_bytes=1,
        devices=1,
    )


@pytest.fixture(scope="module")
def made(pair, tmp_path_factory):
    """A finished sweep: its workdir and outcome."""
    workdir = tmp_path_factory.mktemp("nulls") / "W"
    return workdir, run_sweep(config(pair), workdir)


def test_arrays_say_what_the_checkpoints_say(made, pair):
    workdir, _ = made
    stored = read_npz(workdir / "pair" / "nulls.npz")
    spectra = harness.spectra(workdir)
    for name, part in (("q_proj", "self_attn"), ("down_proj", "mlp")):
        np.testing.assert_array_equal(stored[f"{name}/nf"], spectra[f"{name}/nf"])
        sampled = np.flatnonzero(stored[f"{name}/sampled"])
        assert len(sampled) == 2
        for layer in range(LAYERS):
            tensor = f"model.layers.{layer}.{part}.{name}.weight"
            base, post = (harness.tensor(side, tensor) for side in pair)
            alpha = np.sum(base * post) / np.sum(base**2)
            delta = post - alpha * base
            relative = np.linalg.norm(delta) / np.linalg.norm(post)
            assert stored[f"{name}/delta"][layer] == pytest.approx(relative, rel=1e-9)
            assert stored[f"{name}/rounding"][layer] == 0.0017
            sigma = alpha * np.linalg.svd(base, compute_uv=False)
            pairs = 2 / (sigma[:, None] + sigma[None, :]) ** 2
            square = np.sum(delta**2) / 256 * (pairs.sum() - np.trace(pairs))
            first = stored[f"{name}/nf_first_order"][layer]
            assert first == pytest.approx(np.sqrt(square) / 16, rel=1e-9)
            assert stored[f"{name}/alpha_ls"][layer] == pytest.approx(alpha, rel=1e-9)
            values = stored[f"{name}/sigma_delta"][layer]
            if layer in sampled:
                u, _, vt = np.linalg.svd(base)
                share = np.sum((u.T @ delta @ vt.T)[:8, :8] ** 2) / np.sum(delta**2)
                assert stored[f"{name}/top_half"][layer] == pytest.approx(share, rel=1e-7)
                wanted = np.linalg.svd(delta, compute_uv=False)
                # Of a difference of numbers of size 1, rounded to float64.
                np.testing.assert_allclose(values, wanted, rtol=1e-9, atol=1e-13)
            else:
                assert np.isnan(values).all()
                for key in ("nf_spectrum", "nf_signs", "svsm_mean_signs", "top_half"):
                    assert np.isnan(stored[f"{name}/{key}"][layer]).all()


@pytest.mark.parametrize("kind", ["signs", "spectrum"])
def test_the_change_was_random_and_is_found_to_be(made, kind):
    _, outcome = made
    results = outcome.results["nulls"]["pair"]
    placed = [
        results.projections[name].placed(layer, "nf", kind)
        for name in ("q_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
        for layer in np.flatnonzero(results.projections[name].arrays.sampled)
    ]
    z = np.array([one.z for one in placed])
    assert len(z) == 10
    # Standard normal, roughly: the mean of ten within four of its deviations.
    assert abs(z.mean()) < 4 / np.sqrt(10)
    every = [one for one in results.projections.values() if one.name != "k_proj"]
    ratios = [one.nf_over_null if kind == "spectrum" else one.nf_over_signs for one in every]
    assert 0.8 < np.nanmean(np.concatenate(ratios)) < 1.25
    assert all(results.judgements[one.name]["nf"].verdict == "within" for one in every)


def test_the_factor_is_held_against_a_change_without_scaling(made):
    # Everything was halved: by far more than the change alone would make of it.
    results = made[1].results["nulls"]["pair"]
    one = results.projections["q_proj"]
    layers = np.flatnonzero(one.arrays.sampled)
    alone = one.arrays.alpha_signs[layers] / one.arrays.alpha_ls[layers, None]
    place = results.judgements["q_proj"]["scaling"].test
    assert place.mean == pytest.approx(alone.mean(), rel=1e-12)
    assert place.observed == pytest.approx(one.arrays.alpha[layers].mean(), rel=1e-12)
    assert 0.9 < place.mean < 1.3
    assert results.judgements["q_proj"]["scaling"].verdict == "below"


def test_what_has_no_null_is_said(made):
    workdir, outcome = made
    summary = json.loads((workdir / "pair" / "nulls.json").read_text())
    scaled, deficient = (summary["projections"][name] for name in ("k_proj", "v_proj"))
    assert scaled["unchanged_layers"] == LAYERS
    assert (scaled["layers_sampled"], scaled["verdict"]) == (0, "undefined")
    assert deficient["layers_sampled"] == 2
    assert deficient["sources"]["none"] >= 1
    assert outcome.results["nulls"]["pair"].projections["v_proj"].source[0] == "none"
    assert summary["cost"] == {"matrices": 12, "draws": 3 * 19 * 12}
    assert "summary.json, nulls.json" in outcome.summary()
    q = summary["projections"]["q_proj"]
    assert (q["verdict"], q["verdict_scaling"]) == ("within", "below")
    assert q["p_corrected"] >= q["nf_signs"]["p"]
    assert q["top_half_uniform"] == 0.25


class StopAfter(StopRequest):
    """Stops a sweep once so many groups of the nulls are drawn."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def check(self, done: str = "") -> None:
        if done.startswith(f"nulls of pair: {self.groups} "):
            raise Interrupted(done, 15)


def test_a_sweep_stopped_while_it_draws_goes_on_with_the_same_numbers(made, pair, tmp_path, capsys):
    workdir, again = made[0], tmp_path / "W"
    with pytest.raises(Interrupted):
        run_sweep(config(pair), again, stop=StopAfter(4))
    kept = sorted((again / ".nulls").glob("*.npz"))
    assert len(kept) == 4
    kept[0].write_bytes(kept[0].read_bytes()[:-100])
    capsys.readouterr()
    run_sweep(config(pair), again)
    said = capsys.readouterr().err
    assert "reused 3/12 groups" in said
    assert said.count("drew ") == 9
    wanted, found = (read_npz(place / "pair" / "nulls.npz") for place in (workdir, again))
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)
    assert not (again / ".nulls").exists()
    run_sweep(config(pair), again)
    assert "drew " not in capsys.readouterr().err


def test_workers_draw_the_same(made, pair, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("svdjax.engine.work.ray.RayWorkers", ThreadWorkers)
    run_sweep(config(pair), tmp_path / "W", workers="ray")
    assert "drew 12/12 pair" in capsys.readouterr().err
    for name in ("nulls.npz", "nulls.json"):
        wanted, found = (place / "pair" / name for place in (made[0], tmp_path / "W"))
        assert found.read_bytes() == wanted.read_bytes()


def test_without_draws_the_formulas_stand_in(pair, tmp_path):
    results = run_sweep(config(pair, draws=0), tmp_path / "W").results["nulls"]["pair"]
    assert results.cost == {"matrices": 0, "draws": 0}
    one = results.projections["q_proj"]
    assert set(one.source) <= {"first_order", "all_orders", "none"}
    known = one.source == "first_order"
    np.testing.assert_array_equal(one.nf_null[known], one.arrays.nf_first_order[known])
    assert results.judgements["q_proj"]["nf"].verdict == "undefined"


def test_every_json_file_is_as_its_schema_says(made):
    assert check_files(made[0]) == {"sweep", "summary", "nulls"}


def test_results_from_before_there_were_signs_are_read_and_not_judged(made, tmp_path):
    made[1].results["nulls"]["pair"].save(tmp_path)
    arrays = read_npz(tmp_path / "nulls.npz")
    old = {
        key: value
        for key, value in arrays.items()
        if not key.endswith(("_signs", "/alpha_ls", "/top_half"))
    }
    write_npz(tmp_path / "nulls.npz", old)
    results = NullResults.load(tmp_path)
    assert results.judgements["q_proj"]["nf"].verdict == "undefined"
    np.testing.assert_array_equal(
        results.projections["q_proj"].nf_null,
        made[1].results["nulls"]["pair"].projections["q_proj"].nf_null,
    )


def test_damaged_results_are_named(made, tmp_path):
    _, outcome = made
    (tmp_path / "pair").mkdir()
    outcome.results["nulls"]["pair"].save(tmp_path / "pair")
    stored = NullResults.load(tmp_path / "pair")
    assert stored.settings == {"draws": 19, "layers": 2, "seed": 5}
    (tmp_path / "pair" / "nulls.npz").write_bytes(b"torn")
    with pytest.raises(InputError, match=r"nulls\.json is missing or damaged"):
        NullResults.load(tmp_path / "pair")


def test_analytic_nulls_of_an_opposite_base(made):
    comparison = Comparison.load(made[0] / "pair")
    one = comparison["q_proj"]
    turned = one.metrics._replace(alpha_ls=-np.asarray(one.metrics.alpha_ls))
    found = analytic_nulls(dataclasses.replace(one, metrics=turned))
    assert found.usable.all()
    assert not found.first_order_holds.any()
    assert np.isnan(found.first_order).all()
    # I_orth is about -I.
    np.testing.assert_allclose(found.all_orders, 2 / np.sqrt(16), rtol=0.05)


@pytest.mark.parametrize(
    ("most", "chosen"),
    [
        (0, [0, 1, 2, 3, 4, 5, 7, 8, 9]),
        (1, [5]),
        (2, [3, 8]),
        (3, [3, 5, 8]),
        (5, [0, 3, 5, 8, 9]),
        (20, [0, 1, 2, 3, 4, 5, 7, 8, 9]),
    ],
)
def test_layers_where_no_formula_holds_are_sampled_first(most, chosen):
    holds = np.ones(10, bool)
    holds[[3, 5, 8]] = False
    usable = np.arange(10) != 6
    nothing = np.full(10, np.nan)
    analytic = Analytic(nothing, nothing, holds, np.zeros(10, bool), nothing, usable)
    assert chosen_layers(analytic, most).tolist() == chosen


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        ({"draws": -1}, "config.nulls.draws=-1: expected 0 or more"),
        ({"layers": -1}, "config.nulls.layers=-1: expected 0 or more"),
        ({"seed": 2**32}, "config.nulls.seed=4294967296: expected less than 2^32"),
    ],
)
def test_leaves_that_are_wrong(leaves, said):
    with pytest.raises(InputError) as caught:
        read_config(config(("b", "p"), **leaves))
    assert said in str(caught.value)
