"""The constructions stage through the command: results, resuming, refusals."""

from __future__ import annotations

import json
import shutil
import signal
import time
from typing import Any

import jax
import numpy as np
import pytest

from svdjax import reference
from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.construct import build
from svdjax.construct.recipes import VARIANTS
from svdjax.construct.results import ConstructionResults
from svdjax.errors import InputError
from svdjax.options import default_config
from svdjax.spectral import factor_stack
from svdjax.sweep.config import read_config
from svdjax.sweep.run import run_sweep
from svdjax.text.divergence import Divergences
from svdjax.text.texts import read_texts, tokenise
from tests.spectral import reference as equations
from tests.support.schemas import check_files
from tests.support.workers import ThreadWorkers
from tests.sweep import harness
from tests.sweep.test_refusals import SMALL, refused

STAGES = "--config.stages=('spectra', 'constructions')"
CHOSEN = ("replaced", "restoration_U_SA", "ablation_V_FFN_aligned")
Q = "model.layers.{}.self_attn.{}.weight"


def argument(**sides: object) -> str:
    return "--config=configs/pair.py:" + ",".join(f"{k}={v}" for k, v in sides.items())


def reference_argument(**sides: object) -> str:
    paths = {"base": reference.path("base"), "post": reference.path("instruct")}
    return argument(**(paths | {"text": reference.text_path("instruct")} | sides))


def variants(*names: str) -> str:
    return f"--config.variants={names!r}"


def arguments(*, save: bool = False) -> list[str]:
    """Those of a sweep of three variants of the shipped family."""
    return [
        reference_argument(),
        STAGES,
        variants(*CHOSEN),
        "--config.measure=vectors",
        "--config.text_limit=3",
        f"--config.save_variants={save}",
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished sweep whose variants are saved as checkpoints too; it, and when one was done."""
    root = tmp_path_factory.mktemp("variants")
    workdir, killed = root / "W", root / "killed"

    def watch(words: str) -> None:
        if words == "constructions of pair: 1 of 12 done" and not killed.exists():
            harness.snapshot(workdir, killed)

    done = harness.sweep_here(*arguments(save=True), f"--workdir={workdir}", stop=watch)
    assert done.status == 0, done.err
    return workdir, done, killed


def test_results_are_what_the_saved_models_do(made):
    workdir, done, _ = made
    results = ConstructionResults.load(workdir / "pair")
    assert tuple(results.variants) == CHOSEN
    assert (results.texts, results.left_out) == (3, {})
    post = reference.path("instruct")
    config = model_config(post)
    rows = tokenise(read_texts(results.text, 3), post, config, "text")
    assert results.tokens == rows.targets
    with open_checkpoint(post) as checkpoint:
        original = load_params(checkpoint, config)
    divergences = Divergences(original, config, rows)
    assert results.original_loss == pytest.approx(divergences.measure(original).loss)
    for variant in results.variants.values():
        with open_checkpoint(workdir / "pair" / variant.saved) as checkpoint:
            found = divergences.measure(load_params(checkpoint, config))
        # The same weights in batches spread over another number of devices.
        assert variant.loss == pytest.approx(found.loss, rel=1e-5)
        assert variant.kl == pytest.approx(found.kl, rel=1e-4, abs=1e-8)
        assert variant.agreement == pytest.approx(found.agreement)
        card = (workdir / "pair" / variant.saved / "README.md").read_text("utf-8")
        assert VARIANTS[variant.name].recipe.formula in card
    assert "pair: summary.json, constructions.json" in done.out


def test_weight_changes_are_those_of_the_equations(made):
    workdir, _, _ = made
    base, post = reference.path("base"), reference.path("instruct")
    results = ConstructionResults.load(workdir / "pair")
    squares = np.zeros(2)
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        mine = np.zeros(2)
        for layer in range(5):
            pair = [harness.tensor(side, Q.format(layer, name)) for side in (base, post)]
            new = equations.constructed("eq16", *pair)
            mine += np.sum((new - pair[1]) ** 2), np.sum(pair[1] ** 2)
        change = results.variants["restoration_U_SA"].projections[name]
        assert change.layers == 5
        # bf16 rounding adds 0.0017 of the norm, squared.
        assert change.change == pytest.approx(np.sqrt(mine[0] / mine[1]), rel=5e-3)
        squares += mine
    whole = np.sqrt(squares[0] / squares[1])
    assert results.variants["restoration_U_SA"].change == pytest.approx(whole, rel=5e-3)
    replaced = results.variants["replaced"]
    assert set(replaced.projections) == set(harness_summary(workdir)["projections"])
    for name, entry in harness_summary(workdir)["projections"].items():
        assert replaced.projections[name].alpha == entry["alpha_prime"]


def test_controls_are_as_far_from_post_as_what_they_control(made):
    workdir, _, _ = made
    results = ConstructionResults.load(workdir / "pair")
    # Noise and base + sΔ of three, and base's attention, MLP, and all of it.
    assert len(results.controls) == 9
    for variant in results.variants.values():
        noise, back, reverted = (
            results.control(variant, kind) for kind in ("noise", "interpolated", "reverted")
        )
        assert noise is not None
        assert back is not None
        assert reverted is not None
        for name, change in variant.projections.items():
            # What bf16 can carry, see tests/spectral/test_controls.py.
            size = pytest.approx(change.change, rel=2e-3)
            assert noise.projections[name].change == size
            if not back.at_base:
                # Delta is a few steps of bf16, and entries of as many steps turn over together.
                assert back.projections[name].change == pytest.approx(change.change, rel=1e-2)
            assert back.projections[name].change <= reverted.projections[name].change * 1.002
        assert noise.surviving == pytest.approx(1, abs=0.1)
        assert reverted.surviving == pytest.approx(0, abs=1e-3)
        assert noise.kl > 0
    # Of U, tall in o_proj if anywhere: the shipped attention is square.
    restored = results.variants["restoration_U_SA"]
    assert restored.surviving_predicted == pytest.approx(
        np.mean([one.surviving_predicted for one in restored.projections.values()])
    )
    assert np.isnan(results.variants["replaced"].surviving_predicted)


def harness_summary(workdir):
    return json.loads((workdir / "pair" / "summary.json").read_text())


def test_nothing_but_results_is_left(made):
    workdir, _, _ = made
    assert harness.leftovers(workdir) == []
    assert not [path for path in workdir.rglob(".*") if path.name != ".lock"]


def test_every_json_file_is_as_its_schema_says(made):
    assert check_files(made[0]) == {"sweep", "summary", "constructions"}


def test_a_finished_sweep_does_nothing(made):
    workdir, _, _ = made
    before = {str(p): p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    again = harness.sweep_here(*arguments(save=True), f"--workdir={workdir}")
    assert again.status == 0, again.err
    assert "nothing to do" in again.out
    assert {str(p): p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()} == before


def results_but_times(workdir) -> dict:
    stored = json.loads((workdir / "pair" / "constructions.json").read_text())
    for variant in (*stored["variants"].values(), *stored["controls"].values()):
        variant["seconds"] = variant["saved"] = None
    return stored


def assert_went_on(again, workdir, wanted) -> None:
    """The variants after the first were made, with the same numbers, and nothing is left."""
    assert again.status == 0, again.err
    assert "pair replaced (" not in again.err
    assert "pair ablation_V_FFN_aligned (" in again.err
    assert results_but_times(workdir) == results_but_times(wanted)
    assert harness.leftovers(workdir) == []
    assert not (workdir / ".constructions").exists()
    assert not (workdir / ".factors").exists()


def test_a_killed_stage_goes_on_with_the_same_numbers(made):
    wanted, _, killed = made
    assert (killed / ".constructions" / "pair" / f"{CHOSEN[0]}.json").is_file()
    again = harness.sweep_here(*arguments(save=True), f"--workdir={killed}")
    assert_went_on(again, killed, wanted)


def test_workers_make_the_same_out_of_factors_that_they_compute_once(
    made, tmp_path, monkeypatch, capsys
):
    factored = []

    def counted(stack, **options):
        factored.append(stack.shape)
        return factor_stack(stack, **options)

    monkeypatch.setattr("svdjax.engine.work.ray.RayWorkers", ThreadWorkers)
    monkeypatch.setattr(build, "factor_stack", counted)
    run_sweep(with_factors_in(tmp_path / "cache"), tmp_path / "W", workers="ray")
    assert results_but_times(tmp_path / "W") == results_but_times(made[0])
    # Seven projections of base and of post.
    assert len(factored) == 14
    assert "constructed 12/12 pair" in capsys.readouterr().err
    # What is to be saved is made by the process that has the workdir, out of the same factors.
    few = {"variants": CHOSEN[1:2], "constructions": {"controls": ()}, "text_limit": 1}
    saving = with_factors_in(tmp_path / "cache", save_variants=True, **few)
    run_sweep(saving, tmp_path / "saved", workers="ray")
    assert "made by this process" in capsys.readouterr().err
    assert len(factored) == 14
    models = [each / "pair" / "models" / CHOSEN[1] for each in (tmp_path / "saved", made[0])]
    new, wanted = (load_params(open_checkpoint(each), model_config(each)) for each in models)
    jax.tree.map(np.testing.assert_array_equal, new, wanted)


def with_factors_in(cache, **leaves: Any):
    """The sweep of `made` once more, which keeps factors in a directory."""
    pair = {"base": reference.path("base"), "post": reference.path("instruct")}
    pair["text"] = reference.text_path("instruct")
    options = {"variants": CHOSEN, "text_limit": 3, "factor_cache": str(cache)}
    return default_config(
        "x",
        {"pair": {side: str(path) for side, path in pair.items()}},
        stages=("spectra", "constructions"),
        measure="vectors",
        devices=1,
        **options | leaves,
    )


@pytest.mark.slow
def test_a_killed_process_goes_on_with_the_same_numbers(env, tmp_path):
    calm = harness.sweep(env, *arguments(), f"--workdir={tmp_path / 'calm'}")
    assert calm.status == 0, calm.err
    workdir = tmp_path / "W"
    process = harness.start(env, *arguments(), f"--workdir={workdir}")
    first = workdir / ".constructions" / "pair" / f"{CHOSEN[0]}.json"
    while process.poll() is None and not first.is_file():
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    done = harness.finish(process)
    assert done.status == -signal.SIGKILL, done.err
    again = harness.sweep(env, *arguments(), f"--workdir={workdir}")
    assert_went_on(again, workdir, tmp_path / "calm")


@pytest.mark.slow
def test_without_text_there_are_weight_changes_only(pair_of, tmp_path):
    base, post = pair_of("phi3")
    cache = tmp_path / "cache"
    done = harness.sweep_here(
        argument(base=base, post=post),
        STAGES,
        f"--config.factor_cache={cache}",
        f"--workdir={tmp_path}/W",
    )
    assert done.status == 0, done.err
    results = ConstructionResults.load(tmp_path / "W" / "pair")
    assert set(results.left_out) == {n for n, v in VARIANTS.items() if v.recipe.name == "eq12"}
    assert set(results.variants) | set(results.left_out) == set(VARIANTS)
    for variant in results.variants.values():
        assert np.isnan(variant.loss)
        assert variant.change > 0
    sa, ffn = results.variants["ablation_U_SA"], results.variants["ablation_U_FFN"]
    assert set(sa.projections) == {"qkv_proj", "o_proj"}
    assert set(ffn.projections) == {"gate_up_proj", "down_proj"}
    # Of each checkpoint once, four projections of base and post, for spectra and then for edits.
    assert len(list(cache.glob("svdjax-*"))) == 2 * 8


def test_an_unknown_architecture_is_left_out_with_the_reason(square, tmp_path):
    for side, source in zip(("base", "post"), square):
        shutil.copytree(source, tmp_path / side)
        path = tmp_path / side / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "novel"}))
    done = harness.sweep_here(
        argument(base=tmp_path / "base", post=tmp_path / "post"),
        STAGES,
        *SMALL,
        f"--workdir={tmp_path}/W",
    )
    assert done.status == 0, done.err
    results = ConstructionResults.load(tmp_path / "W" / "pair")
    assert results.variants == {}
    assert all("no name table" in reason for reason in results.left_out.values())


def test_bad_input_is_refused_before_anything_is_computed(pair_of, tmp_path):
    base, post = pair_of("llama")
    text = tmp_path / "text.jsonl"
    text.write_text('{"text": "one"}\n{"txt": "two"}\n')
    plain = tmp_path / "plain.txt"
    plain.write_text("some text\n")
    for sides, words in (
        ({"text": tmp_path / "none.txt"}, ["none.txt", "no such file"]),
        ({"text": text}, ["text.jsonl, line 2", "txt"]),
        ({"text": plain}, ["has no tokenizer"]),
        ({"other": tmp_path / "gone"}, ["gone"]),
    ):
        before = sorted(tmp_path.rglob("*"))
        pair = {"base": str(base), "post": str(post)} | {k: str(v) for k, v in sides.items()}
        config = default_config("x", {"pair": pair}, stages=("spectra", "constructions"))
        with pytest.raises(InputError) as caught:
            run_sweep(config, tmp_path / "W")
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words)
        assert sorted(tmp_path.rglob("*")) == before
    # The last one as the command says it.
    refused(harness.sweep_here(argument(base=base, post=post, **sides), STAGES), *words)


@pytest.mark.parametrize(
    ("leaves", "words"),
    [
        ({"variants": ("replacd",)}, ["'replacd'", "did you mean 'replaced'"]),
        ({"split_fused": True}, ["split_fused", "fused projections as a whole"]),
        ({"stages": ("constructions",)}, ["spectra first"]),
        ({"factor_cache_bytes": -1}, ["factor_cache_bytes=-1"]),
        (
            {"constructions": {"controls": ("nose",)}},
            ["constructions.controls=", "'nose'", "noise"],
        ),
        ({"constructions": {"asked": "eq11"}}, ["constructions.asked=", "'eq11'", "restoration"]),
        ({"constructions": {"seed": -1}}, ["config.constructions.seed=-1: expected 0 or more"]),
    ],
)
def test_bad_leaves_are_named(leaves, words):
    stages = {"stages": ("spectra", "constructions", "report")}
    pairs = {"pair": {"base": "base", "post": "post"}}
    with pytest.raises(InputError) as caught:
        read_config(default_config("x", pairs, **(stages | leaves)))
    assert all(word in str(caught.value) for word in words)


def test_another_text_is_another_input(tmp_path):
    text = tmp_path / "text.jsonl"
    shutil.copy(reference.text_path("instruct"), text)
    again = [reference_argument(text=text), *arguments()[1:], f"--workdir={tmp_path}/W"]
    begun = harness.sweep_here(*again, stop=lambda words: words.endswith("groups done"))
    assert begun.status == 143, begun.err
    text.write_text(text.read_text() + '{"text": "more"}\n')
    refused(harness.sweep_here(*again), "text.jsonl", "other input")
