"""The temperature stage, in this process, on a tiny pair and its held-out text."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest

from svdjax import reference
from svdjax.atomic import read_npz
from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.construct.low_rank import scaled
from svdjax.errors import InputError
from svdjax.model import forward
from svdjax.options import default_config
from svdjax.sweep.config import read_config
from svdjax.sweep.run import run_sweep
from svdjax.temperature import measures
from svdjax.temperature.options import TemperatureOptions, temperature
from svdjax.temperature.results import TemperatureResults
from svdjax.text.texts import read_texts, tokenise
from tests.report import synthetic
from tests.report.pages import assert_self_contained, pair_page
from tests.support.adapters import make_adapter
from tests.support.schemas import check_files
from tests.support.workers import ThreadWorkers
from tests.text.expected import expected

FACTORS = (0.7, 1.4)


def config(stages=("spectra", "temperature"), **leaves):
    post = reference.path("instruct")
    pairs = {
        "pair": {
            "base": str(post),
            "post": str(post),
            "text": leaves.pop("text", str(reference.text_path("instruct"))),
        }
    }
    section = {"factors": FACTORS, "projections": ("qk", "o_proj"), "layers": "1", "texts": 2}
    section |= {"prompts": 3, "questions": 3} | leaves.pop("temperature", {})
    questions = str(reference.heldout_path())
    options = {"probes": {"prompts": questions}, "benchmarks": {"questions": questions}} | leaves
    short = {"max_new_tokens": 24, "batch_size": 4}
    return default_config(
        "tempered",
        pairs,
        stages=stages,
        temperature=section,
        evaluation=short,
        measure="vectors",
        devices=1,
        **options,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("tempered") / "W"
    run_sweep(config(), workdir)
    return workdir


def test_loss_and_kl_are_those_of_multiplied_weights_in_float64(made):
    results = TemperatureResults.load(made / "pair")
    assert (results.layers, results.factors) == ([1, -1], [0.7, 1.0, 1.4])
    post = reference.path("instruct")
    model = model_config(post)
    with open_checkpoint(post) as checkpoint:
        params = load_params(checkpoint, model)
    path = reference.text_path("instruct")
    rows = tokenise(read_texts(path, 2), post, model, str(path))

    def logits(tree):
        return lambda tokens: np.asarray(forward(tree, model, tokens))

    for p, r, f, modules, layers in ((0, 0, 2, "q_proj|k_proj", [1]), (1, 1, 0, "o_proj", None)):
        edited = scaled(params, results.factors[f], modules=modules, layers=layers)
        wanted = expected(logits(params), logits(edited), rows)
        # As in tests/text/test_divergence.py: other batches, float32 logits.
        assert results.values["post/loss"][p, r, f] == pytest.approx(wanted.loss, rel=1e-5)
        assert results.values["post/kl"][p, r, f] == pytest.approx(wanted.kl, rel=1e-4)
        assert wanted.kl > 1e-6
    unscaled = results.values["post/loss"][:, :, 1]
    assert (unscaled == unscaled[0, 0]).all()
    assert not results.values["post/kl"][:, :, 1].any()


def test_an_adapter_is_scaled_like_the_model_it_makes(tmp_path):
    base = reference.path("base")
    adapter = make_adapter(tmp_path / "adapter", base, scale=0.1)
    how: Any = config(temperature={"layers": "0", "projections": ("o_proj",), "texts": 1})
    how.pairs.pair.base, how.pairs.pair.post = str(base), str(adapter)
    how.probes.prompts = how.benchmarks.questions = ""
    run_sweep(how, tmp_path / "W")
    found = TemperatureResults.load(tmp_path / "W" / "pair").values["post/loss"]
    model, path = model_config(base), reference.text_path("instruct")
    rows = tokenise(read_texts(path, 1), base, model, str(path))
    with open_checkpoint(adapter, lambda: open_checkpoint(base)) as checkpoint:
        params = load_params(checkpoint, model)
    edited = scaled(params, 1.4, modules="o_proj", layers=[0])

    def logits(tree):
        return lambda tokens: np.asarray(forward(tree, model, tokens))

    wanted = expected(logits(params), logits(edited), rows)
    assert found[0, 0, 2] == pytest.approx(wanted.loss, rel=1e-5)  # as above


def test_what_is_left_says_what_it_is(made):
    arrays = read_npz(made / "pair" / "temperature.npz")
    entry = json.loads((made / "pair" / "temperature.json").read_text())
    assert list(arrays["projections"]) == ["qk", "o_proj"]
    assert arrays["post/entropy_last"].shape == (2, 2, 3, 5)
    # Of a single layer nothing was asked; all layers together were asked 3 questions.
    assert np.isnan(arrays["post/accuracy/questions"][:, 0, [0, 2]]).all()
    assert np.isfinite(arrays["post/accuracy/questions"][:, 1]).all()
    assert entry["data"]["questions"] == {"questions": 3}
    # Qwen2 has biases at q and k: its temperature stands beside, and the notes say why.
    assert np.isfinite(arrays["post/temperature_last"][0][:, [0, 2]]).all()
    assert "biases" in entry["notes"][0]
    # Blocks before the scaled one do not see it; a hotter one attends more evenly.
    last = arrays["post/entropy_last"]
    np.testing.assert_allclose(last[0, 0, :, 0], last[0, 0, 1, 0], rtol=0, atol=1e-6)
    assert last[0, 0, 0, 1] > last[0, 0, 1, 1] > last[0, 0, 2, 1]
    assert set(entry["arrays"]["units"]) >= {"loss", "kl", "entropy_last", "accuracy"}
    assert not [path for path in made.rglob(".*") if path.name != ".lock"]


def test_every_json_file_is_as_its_schema_says(made):
    assert check_files(made) >= {"sweep", "summary", "temperature"}


def test_a_killed_sweep_redoes_only_what_is_missing(made, tmp_path, monkeypatch):
    """Killed at a point of the second measure; what was journaled is not measured again."""
    workdir = tmp_path / "W"
    plain = config(temperature={"questions": 0})
    whole = tmp_path / "whole"
    run_sweep(plain, whole)
    counted: list[str] = []
    original = measures.Target.scaled

    def dying(self, params, point, **how):
        counted.append(str(point))
        if len(counted) == limit:
            raise KeyboardInterrupt
        return original(self, params, point, **how)

    monkeypatch.setattr(measures.Target, "scaled", dying)
    limit = 12
    with pytest.raises(KeyboardInterrupt):
        run_sweep(plain, workdir)
    assert len(list((workdir / ".temperature").glob("*.json"))) >= 9
    first, limit = list(counted), -1
    counted.clear()
    run_sweep(plain, workdir)
    # 9 losses; entropies at 9 points, those of qk, 4 of them, with biases once more.
    assert len(first) + len(counted) <= 9 + 9 + 4 + 2
    for name in ("temperature.npz",):
        mine, theirs = (read_npz(each / "pair" / name) for each in (workdir, whole))
        assert mine.keys() == theirs.keys()
        for key in mine:
            np.testing.assert_array_equal(mine[key], theirs[key], err_msg=key)


def test_workers_measure_the_same(made, tmp_path, monkeypatch, capsys):
    """Two pairs of the same model, whose points are measured once."""
    monkeypatch.setattr("svdjax.engine.work.ray.RayWorkers", ThreadWorkers)
    both: Any = config()
    with both.unlocked():
        both.pairs.again = both.pairs.pair.copy_and_resolve_references()
    run_sweep(both, tmp_path / "W", workers="ray")
    for pair in ("pair", "again"):
        arrays = tmp_path / "W" / pair / "temperature.npz"
        assert arrays.read_bytes() == (made / "pair" / "temperature.npz").read_bytes()
    lines = [line for line in capsys.readouterr().err.splitlines() if "tempered" in line]
    assert sum(line.endswith("already") for line in lines) == 3
    assert len(lines) == 6


def test_page_and_table(made, tmp_path):
    results = TemperatureResults.load(made / "pair")
    page = assert_self_contained(
        pair_page(synthetic.comparison([]), tmp_path, results={"temperature": results})
    )
    for words in ("Scaled singular values", "layer by layer", "unscaled", "scaled block falls"):
        assert words in page.text
    lines = (tmp_path / "pair" / "tables" / "temperature.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 2 * 3
    assert lines[1].startswith("post,qk,1,0.7,2.04")


def test_a_damaged_result_is_made_again(made, tmp_path):
    copy = tmp_path / "pair"
    shutil.copytree(made / "pair", copy)
    (copy / "temperature.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"temperature\.json is missing or damaged"):
        TemperatureResults.load(copy)


def test_layers_are_thinned_evenly_and_temperatures_are_those_of_g1():
    assert TemperatureOptions(most_layers=3).chosen(9) == (0, 4, 8)
    assert TemperatureOptions(layers="none").chosen(9) == ()
    assert TemperatureOptions(factors=(2.0, 0.5)).grid == (0.5, 1.0, 2.0)
    assert temperature(("q_proj", "k_proj"), 0.5) == 4.0
    assert temperature(("k_proj",), 0.5) == 2.0
    assert np.isnan(temperature(("o_proj",), 0.5))


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"factors": (0.0,)}, "config.temperature.factors=(0.0,): expected numbers above 0"),
        (
            {"projections": ("o_prj",)},
            "config.temperature.projections: there is no 'o_prj'; did you",
        ),
        ({"models": ("other",)}, "config.temperature.models: expected some of post, base"),
        ({"layers": "x"}, "config.temperature.layers: layers 'x'"),
        ({"texts": -1}, "config.temperature.texts=-1: expected 0 or more"),
    ],
)
def test_leaves_that_are_wrong(section, said):
    with pytest.raises(InputError) as caught:
        read_config(config(temperature=section))
    assert said in str(caught.value)


def test_nothing_to_measure_is_refused_and_a_layer_too_many(tmp_path):
    nothing = config(text="", probes={"prompts": ""}, temperature={"questions": 0})
    with pytest.raises(InputError, match="nothing for the temperature stage to measure"):
        run_sweep(nothing, tmp_path / "W")
    with pytest.raises(InputError, match=r"pair: config\.temperature\.layers=7"):
        run_sweep(config(temperature={"layers": "7"}), tmp_path / "W")
    assert not (tmp_path / "W").exists()
