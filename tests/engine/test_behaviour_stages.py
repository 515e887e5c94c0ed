"""The probes and evaluation stages through the real command, on the shipped family."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from svdjax import reference
from svdjax.atomic import read_npz
from svdjax.engine import EvaluateJob, ProbeJob, run_evaluate, run_probe
from svdjax.engine.behaviour.results import EvaluationResults, ProbeResults
from svdjax.engine.settings import read_config
from svdjax.errors import InputError
from svdjax.options import default_config
from svdjax.report import write_index, write_pair
from tests.engine import harness
from tests.report import synthetic
from tests.report.pages import assert_links_lead_somewhere, assert_self_contained

VARIANTS = ("replaced", "restoration_V_SA")
ARGUMENTS = (
    "--config=configs/reference.py:quick",
    "--config.stages=('spectra', 'constructions', 'probes', 'evaluation')",
    f"--config.variants={VARIANTS!r}",
    "--config.save_variants=True",
    "--config.text_limit=4",
    "--config.probes.limit=5",
    "--config.evaluation.limit=6",
    "--config.evaluation.max_new_tokens=48",
)


@pytest.fixture(scope="module")
def made(env, tmp_path_factory):
    """All stages on all pairs of the family, two variants of each."""
    workdir = tmp_path_factory.mktemp("behaviour") / "W"
    done = harness.sweep(env, *ARGUMENTS, f"--workdir={workdir}")
    assert done.status == 0, done.err
    return workdir, done


def evaluation(workdir, pair):
    return json.loads((workdir / pair / "evaluation.json").read_text())


def answers(folder, model):
    path = folder / "responses" / "questions" / f"{model}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("model", ["post", "restoration_V_SA"])
def test_answers_are_those_of_the_evaluate_command(made, tmp_path, model):
    workdir, _ = made
    pair = workdir / "base-reasoning"
    source = reference.path("reasoning") if model == "post" else pair / "models" / model
    job = EvaluateJob(
        model=str(source),
        benchmark="questions",
        data=str(reference.heldout_path()),
        out=str(tmp_path / "out"),
        limit=6,
        repeats=1,
        max_new_tokens=48,
        batch_size=30,
    )
    summary = run_evaluate(job).summary
    lines = (tmp_path / "out" / "responses.jsonl").read_text().splitlines()
    assert answers(pair, model) == [json.loads(line) for line in lines]
    found = evaluation(workdir, "base-reasoning")["scores"][model]["questions"]
    assert found == {name: summary[name] for name in found}


def test_probes_are_those_of_the_probe_command(made, tmp_path):
    workdir, _ = made
    pair = workdir / "base-instruct"
    models = {
        "post": reference.path("instruct"),
        "base": reference.path("base"),
        "replaced": pair / "models" / "replaced",
    }
    job = ProbeJob(
        models=tuple(map(str, models.values())),
        prompts=str(reference.heldout_path()),
        out=str(tmp_path / "out"),
        limit=5,
    )
    run_probe(job)
    for file in ("entropy.npz", "cka.npz", "maps.npz"):
        wanted, found = read_npz(tmp_path / "out" / file), read_npz(pair / file)
        for key, values in wanted.items():
            name, slash, rest = key.partition("/")
            mine = found[{"instruct": "post"}.get(name, name) + slash + rest]
            # The same weights in float32, the sums perhaps spread over other threads.
            np.testing.assert_allclose(mine, values, rtol=1e-4, atol=1e-6, err_msg=key)


def test_pairs_of_the_same_three_models_are_told_apart(made):
    workdir, _ = made
    one, other = (
        [each["response"] for each in answers(workdir / pair, "restoration_V_SA")]
        for pair in ("base-instruct", "base-reasoning")
    )
    assert one != other


def test_a_shared_checkpoint_is_run_once(made):
    workdir, done = made
    assert answers(workdir / "base-instruct", "base") == answers(workdir / "base-reasoning", "base")
    assert "base-instruct base already" in done.err
    assert list(evaluation(workdir, "base-instruct")["scores"]) == ["post", "base", *VARIANTS]
    assert list(evaluation(workdir, "instruct-reasoning")["scores"]) == ["post", "base"]


def test_pages_show_the_papers_tables(made, tmp_path):
    workdir, done = made
    assert "4 models evaluated" in done.out
    pairs = ("base-instruct", "base-reasoning")
    answered = {pair: EvaluationResults.load(workdir / pair) for pair in pairs}
    # Without matrices, so that little else is drawn.
    comparisons = {pair: synthetic.comparison([], pair=pair) for pair in pairs}
    for pair in pairs:
        write_pair(
            comparisons[pair],
            tmp_path / pair,
            probes=ProbeResults.load(workdir / pair) if pair == pairs[0] else None,
            evaluation=answered[pair],
        )
    index = write_index(tmp_path, comparisons, evaluations=answered)
    text = assert_self_contained(index).text
    for number in "12678":
        assert f"Table {number}: " in text
    assert "questions: 6 questions, each once" in text
    assert "not the paper's, which is" in text
    page = assert_self_contained(tmp_path / "base-instruct" / "report.html")
    assert_links_lead_somewhere(tmp_path / "base-instruct" / "report.html")
    for title in ("questions, pass@1", "Inside the models", "CKA with the original"):
        assert title in page.text


def test_nothing_but_results_is_left_and_a_finished_sweep_does_nothing(made, env):
    workdir, _ = made
    assert not [path for path in workdir.rglob(".*") if path.name != ".lock"]
    again = harness.sweep(env, *ARGUMENTS, f"--workdir={workdir}")
    assert again.status == 0, again.err
    assert again.out.startswith("nothing to do: already finished")
    assert "evaluated" not in again.err


def test_a_sweep_killed_while_it_asks_goes_on(made, env, tmp_path):
    workdir, _ = made
    copy = tmp_path / "W"
    arguments = [one for one in ARGUMENTS if "save_variants" not in one]
    process = harness.start(env, *arguments, f"--workdir={copy}")
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("evaluated 2/4 base-instruct"):
            process.kill()
            break
    process.communicate()
    assert lines[-1].startswith("evaluated 2/4"), "".join(lines)
    done = harness.sweep(env, *arguments, f"--workdir={copy}")
    assert done.status == 0, done.err
    assert not any(done.err.count(word) for word in ("constructed ", "probed "))
    for pair in ("base-base_prime", "base-instruct", "base-reasoning", "instruct-reasoning"):
        assert evaluation(copy, pair) == evaluation(workdir, pair)


def test_other_questions_are_refused(made, env, tmp_path):
    workdir, _ = made
    copy = tmp_path / "W"
    shutil.copytree(workdir, copy)
    state = json.loads((copy / "sweep.json").read_text())
    state["inputs"]["benchmarks.questions"]["sha256"] = "0"
    (copy / "sweep.json").write_text(json.dumps(state))
    done = harness.sweep(env, *ARGUMENTS, f"--workdir={copy}")
    assert done.status == 2
    assert "benchmarks.questions" in done.err.splitlines()[-1]


def config(**leaves):
    pairs = {"pair": {"base": "b", "post": "p"}}
    return default_config("x", pairs, **leaves)


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        ({"stages": ("spectra", "evaluation")}, "config.benchmarks: none is given"),
        ({"stages": ("spectra", "probes")}, "config.probes.prompts is not given"),
        (
            {
                "stages": ("spectra", "evaluation"),
                "benchmarks": {"gsm8k": "x"},
                "evaluation": {"temperature": -1.0},
            },
            "config.evaluation.temperature=-1.0: expected 0",
        ),
        (
            {
                "stages": ("spectra", "probes"),
                "probes": {"prompts": "x", "samples": "token"},
                "decoder": {"dtype": "float16"},
            },
            "config.decoder.dtype=float16: expected float32 or bfloat16",
        ),
    ],
)
def test_leaves_that_are_wrong(leaves, said):
    with pytest.raises(InputError) as caught:
        read_config(config(**leaves))
    assert said in str(caught.value)


def test_files_that_are_missing_are_named_before_anything_is_computed(env, tmp_path):
    workdir = tmp_path / "W"
    done = harness.sweep(
        env,
        "--config=configs/reference.py:quick",
        f"--config.benchmarks.gsm8k={tmp_path / 'none.jsonl'}",
        f"--workdir={workdir}",
    )
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert "config.benchmarks.gsm8k" in line
    assert "none.jsonl" in line
    assert not workdir.exists()
