"""`python -m svdjax.probe`: the shipped models, real files."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from svdjax import reference
from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.errors import InputError
from svdjax.model import decoder_mesh, shard_params
from svdjax.probe.activations import probe
from svdjax.probe.cka import cka_from_grams, grams
from svdjax.probe.job import ProbeJob, model_names
from svdjax.probe.run import ProbeOutcome, run_probe
from svdjax.text.prompts import read_prompts
from tests.support.commands import call
from tests.support.schemas import check_files
from tests.sweep import harness

MODELS = tuple(str(reference.path(name)) for name in ("instruct", "base", "instruct"))


def run(out: pathlib.Path, draw: bool = False, **options: Any) -> ProbeOutcome:
    given: Any = {"models": MODELS, "prompts": str(reference.heldout_path()), "limit": 12}
    return run_probe(ProbeJob(out=str(out), **(given | options)), draw=draw)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> ProbeOutcome:
    return run(tmp_path_factory.mktemp("probe") / "out", draw=True, blocks="0,3-")


def test_files_and_shapes(done: ProbeOutcome) -> None:
    entropy, cka, maps = (
        np.load(done.out / name, allow_pickle=False)
        for name in ("entropy.npz", "cka.npz", "maps.npz")
    )
    names = ["instruct", "base", "instruct-2"]
    assert set(entropy.files) == {f"{n}/{kind}" for n in names for kind in ("last", "mean")}
    kinds = ("", "/prompt", "/prompt_debiased", "/position", "/position_debiased")
    assert set(cka.files) == {f"{name}{kind}" for name in names for kind in kinds}
    assert entropy["base/last"].shape == (5, 4)
    assert cka["base"].shape == (5, 5)
    assert maps["base"].shape[0] == 5
    np.testing.assert_allclose(maps["base"].sum(axis=-1), 1, atol=1e-5)
    # A model beside itself; one that another model is.
    np.testing.assert_allclose(np.diagonal(cka["instruct"]), 1)
    np.testing.assert_array_equal(cka["instruct"], cka["instruct-2"])
    assert np.all(np.diagonal(cka["base"]) < 0.999)
    np.testing.assert_array_equal(cka["base"], cka["base/prompt"])
    # The default's samples are ours, and are called so.
    assert "CKA over prompts (svdjax's samples, not eq. 17's) with instruct" in done.text()
    drawn = {path.stem for path in (done.out / "figures").iterdir()}
    assert drawn == {
        *("entropy_last", "entropy_mean", "entropy_heads", "cka"),
        *(f"attention_{name}" for name in names),
        *(f"attention_difference_{name}" for name in names[1:]),
    }


def test_numbers_are_those_of_the_parts(done: ProbeOutcome) -> None:
    tokenizer = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(MODELS[0])
    system = {"role": "system", "content": "Please put your final answer within \\boxed{}."}
    prompts = [
        tokenizer.apply_chat_template(
            [system, {"role": "user", "content": one.text}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
        )["input_ids"]
        for one in read_prompts(reference.heldout_path(), 12)
    ]
    mesh, found = decoder_mesh(1), []
    for source in MODELS[:2]:
        config = model_config(source)
        with open_checkpoint(source) as checkpoint:
            params = shard_params(load_params(checkpoint, config, None), mesh, np.float32)
        found.append(probe(params, config, prompts, mesh=mesh))
    np.testing.assert_allclose(done.entropy["base/last"], found[1].entropy_last, atol=1e-5)
    np.testing.assert_allclose(done.entropy["base/mean"], found[1].entropy_mean, atol=1e-5)
    for kind in ("tokens", "positions"):
        name = "prompt" if kind == "tokens" else "position"
        for debiased in (False, True):
            kx, ky = (grams(getattr(model, kind)) for model in found)
            expected = cka_from_grams(kx, ky, debiased=debiased)
            key = f"base/{name}{'_debiased' if debiased else ''}"
            # Hidden states in float32 from other batches.
            np.testing.assert_allclose(done.cka[key], expected, atol=1e-4)


def test_every_json_file_is_as_its_schema_says(done: ProbeOutcome) -> None:
    assert check_files(done.out) == {"probe_record"}


def test_finished_does_nothing(done: ProbeOutcome) -> None:
    again = run(done.out, draw=True, blocks="0,3-")
    assert again.was_finished
    assert set(again.cka) == set(done.cka)
    with pytest.raises(InputError, match="another config: samples"):
        run(done.out, blocks="0,3-", samples="position")


def test_one_prompt_has_entropy_and_no_cka(tmp_path: pathlib.Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text("There are 12 books.\n\n")
    found = run(tmp_path / "out", prompts=str(lines), models=MODELS[:1], prompt_format="plain")
    assert np.isfinite(found.entropy["instruct/last"]).all()
    assert np.isnan(found.cka["instruct/prompt"]).all()
    assert np.isfinite(found.cka["instruct/position"]).all()


WRONG = {
    "no key": ('{"text": "a"}\n', r"line 1: expected .*, found text"),
    "a number": ('{"prompt": 3}\n', r"line 1: expected .*, found 3"),
    "truncated": ('{"prompt": "a"}\n{"prom', "line 2: is not valid JSON"),
    "blank": ("\n \n", "holds no prompt"),
    "too long": (json.dumps({"question": "books " * 600}), r"line 1: its prompt has \d+ tokens"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_prompts(fault: str, tmp_path: pathlib.Path) -> None:
    text, expected = WRONG[fault]
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(InputError, match=expected):
        run(tmp_path / "out", prompts=str(tmp_path / "p.jsonl"))
    assert not (tmp_path / "out").exists()


def test_all_faults_of_all_models_at_once(tmp_path: pathlib.Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(MODELS[0], bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"bare.*nowhere") as caught:
        run(tmp_path / "out", models=(str(bare), MODELS[1], str(tmp_path / "nowhere")))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="7"):
        run(tmp_path / "out", blocks="7")


def test_flags_that_are_wrong() -> None:
    with pytest.raises(InputError) as caught:
        ProbeJob(models=(), prompts="", out="", limit=-1, samples="x", blocks="3-1")
    for part in ("--models", "--prompts", "--out", "--limit=-1", "--samples=x", "--blocks"):
        assert part in str(caught.value)


def test_names_of_models() -> None:
    sources = ["a/x/", "b/x", "x", "org/y@v1", "x-2"]
    assert model_names(sources) == ["x", "x-2", "x-3", "y@v1", "x-2-2"]


def test_the_command(tmp_path: pathlib.Path, env: dict[str, str]) -> None:
    shown = call("probe", "--help")
    assert shown.status == 0
    assert "--prompt_format" in shown.out
    flags = [f"--models={MODELS[0]},{MODELS[1]}", f"--prompts={reference.heldout_path()}"]
    flags += ["--limit=5", f"--out={tmp_path}/out"]
    command = [sys.executable, "-m", "svdjax.probe", *flags]
    good = subprocess.run(command, cwd=harness.ROOT, env=env, capture_output=True)
    assert good.returncode == 0, good.stderr
    assert f"{tmp_path}/out/cka.npz".encode() in good.stdout
    assert (tmp_path / "out" / "figures" / "cka.png").is_file()
    wrong = call("probe", *flags, "--max=3")
    assert wrong.status == 2
    assert len(wrong.err.splitlines()) == 1
