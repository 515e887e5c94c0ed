"""The probes and evaluation stages through the command, on the shipped family."""

from __future__ import annotations

import json
import pathlib
import re
import shutil
from dataclasses import dataclass

import numpy as np
import pytest

from svdjax import reference
from svdjax.atomic import read_npz
from svdjax.errors import InputError
from svdjax.evaluate.job import EvaluateJob
from svdjax.evaluate.results import EvaluationResults
from svdjax.evaluate.run import run_evaluate
from svdjax.options import default_config
from svdjax.probe.job import ProbeJob
from svdjax.probe.results import ProbeResults
from svdjax.probe.run import run_probe
from svdjax.sweep.config import read_config
from svdjax.sweep.pages import write_report
from tests.report import synthetic
from tests.report.pages import assert_links_lead_somewhere, assert_self_contained
from tests.support.schemas import check_files
from tests.sweep import harness

CONTROL = "restoration_V_SA_noise"  # only those of restorations are asked
STAGES = "--config.stages=('spectra', 'constructions', 'probes', 'evaluation')"
ARGUMENTS = (
    "--config=configs/reference.py",
    STAGES,
    "--config.variants=('replaced', 'restoration_V_SA')",
    "--config.constructions.controls=('noise',)",
    "--config.save_variants=True",
    "--config.text_limit=4",
    "--config.probes.limit=5",
    "--config.evaluation.limit=6",
    "--config.evaluation.repeats=1",
    "--config.evaluation.max_new_tokens=48",
    "--config.evaluation.batch_size=30",
)
# Pairs that share checkpoints, with and without constructed models; as little to compile as can be.
FEW = """
from tests.test_options import load

def get_config(argument=None):
    config = load("reference").get_config()
    with config.unlocked():
        for post in ("base_prime", "rl", "rejection"):
            del config.pairs[f"base-{post}"]
    config.measure = "vectors"
    config.stages = ("spectra", "constructions", "probes", "evaluation")
    config.variants = ("restoration_V_SA",)
    config.constructions.controls = ("noise",)
    config.save_variants = True
    config.text_limit = 1
    config.probes.limit = 2
    config.evaluation.limit = 2
    config.evaluation.repeats = 1
    config.evaluation.max_new_tokens = 24
    config.evaluation.batch_size = 30
    config.devices = 1
    return config
"""


@dataclass(frozen=True)
class Swept:
    """A finished sweep, and what it was asked for."""

    workdir: pathlib.Path
    done: harness.Done
    arguments: tuple[str, ...]
    variants: tuple[str, ...]
    prompts: int
    questions: int
    tokens: int
    devices: int
    halfway: pathlib.Path
    """What a kill would have left while it asked the models of base-instruct."""


@pytest.fixture(scope="module", params=["few", pytest.param("whole", marks=pytest.mark.slow)])
def made(request, env, tmp_path_factory):
    """All stages on pairs of the family."""
    root = tmp_path_factory.mktemp("behaviour")
    workdir, halfway = root / "W", root / "halfway"
    if request.param == "whole":
        done = harness.sweep(env, *ARGUMENTS, f"--workdir={workdir}")
        assert done.status == 0, done.err
        variants = ("replaced", "restoration_V_SA")
        return Swept(workdir, done, ARGUMENTS, variants, 5, 6, 48, 0, halfway)
    (root / "few.py").write_text(FEW)

    def watch(words: str) -> None:
        if words == "evaluation of base-instruct: 1 of 4 done":
            harness.snapshot(workdir, halfway)

    arguments = (f"--config={root / 'few.py'}",)
    done = harness.sweep_here(*arguments, f"--workdir={workdir}", stop=watch)
    assert done.status == 0, done.err
    return Swept(workdir, done, arguments, ("restoration_V_SA",), 2, 2, 24, 1, halfway)


def evaluation(workdir, pair):
    return json.loads((workdir / pair / "evaluation.json").read_text())


def answers(folder, model):
    path = folder / "responses" / "questions" / f"{model}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("model", ["post", "restoration_V_SA"])
def test_answers_are_those_of_the_evaluate_command(made, tmp_path, model):
    pair = made.workdir / "base-reasoning"
    source = reference.path("reasoning") if model == "post" else pair / "models" / model
    job = EvaluateJob(
        model=str(source),
        benchmark="questions",
        data=str(reference.heldout_path()),
        out=str(tmp_path / "out"),
        limit=made.questions,
        repeats=1,
        max_new_tokens=made.tokens,
        batch_size=30,
        devices=made.devices,
    )
    summary = run_evaluate(job).summary
    lines = (tmp_path / "out" / "responses.jsonl").read_text().splitlines()
    assert answers(pair, model) == [json.loads(line) for line in lines]
    found = evaluation(made.workdir, "base-reasoning")["scores"][model]["questions"]
    assert found == {name: summary[name] for name in found}


def test_probes_are_those_of_the_probe_command(made, tmp_path):
    pair = made.workdir / "base-instruct"
    variant = made.variants[0]
    models = {
        "post": reference.path("instruct"),
        "base": reference.path("base"),
        variant: pair / "models" / variant,
    }
    job = ProbeJob(
        models=tuple(map(str, models.values())),
        prompts=str(reference.heldout_path()),
        out=str(tmp_path / "out"),
        limit=made.prompts,
        devices=made.devices,
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
    one, other = (
        [each["response"] for each in answers(made.workdir / pair, "restoration_V_SA")]
        for pair in ("base-instruct", "base-reasoning")
    )
    assert one != other


def test_a_shared_checkpoint_is_run_once(made):
    workdir, done = made.workdir, made.done
    assert answers(workdir / "base-instruct", "base") == answers(workdir / "base-reasoning", "base")
    assert "base-reasoning base already" in done.err
    assert list(evaluation(workdir, "base-instruct")["scores"]) == [
        *("post", "base"),
        *made.variants,
        CONTROL,
    ]
    assert list(evaluation(workdir, "instruct-reasoning")["scores"]) == ["post", "base"]


def test_pages_show_the_papers_tables(made, tmp_path):
    workdir = made.workdir
    head, *rows = made.done.out.splitlines()[1:3]
    accuracy = head.index("accuracy")
    assert re.match(r"\d+\.\d → \d+\.\d %$", rows[0][accuracy:])
    pairs = ("base-instruct", "base-reasoning")
    answered = {pair: EvaluationResults.load(workdir / pair) for pair in pairs}
    # Without matrices, so that little else is drawn.
    comparisons = {pair: synthetic.comparison([], pair=pair) for pair in pairs}
    probes = {pairs[0]: ProbeResults.load(workdir / pairs[0])}
    results = {"probes": probes, "evaluation": answered}
    index = write_report(tmp_path, comparisons, results=results)
    page = assert_self_contained(index)
    text = page.text
    # Tables 1 and 6 are of replaced singular values.
    shown = "12678" if "replaced" in made.variants else "278"
    assert [one for one in "12678" if f"Table {one}: " in text] == list(shown)
    assert f"questions: {made.questions} questions, each once" in text
    assert "not the paper's, which is" in text
    assert_links_lead_somewhere(index)
    for title in ("questions, pass@1", "Inside the models", "CKA with the original", "that post"):
        assert title in page.text


def test_nothing_but_results_is_left_and_a_finished_sweep_does_nothing(made):
    assert not [path for path in made.workdir.rglob(".*") if path.name != ".lock"]
    again = go_on(made, made.workdir)
    assert again.status == 0, again.err
    assert again.out.startswith("nothing to do: already finished")
    assert "evaluated" not in again.err


def test_every_json_file_is_as_its_schema_says(made):
    names = check_files(made.workdir)
    assert names >= {"sweep", "summary", "constructions", "probes", "evaluation", "response"}


def go_on(made, workdir, *more: str) -> harness.Done:
    """The command of the sweep once more, in this process."""
    return harness.sweep_here(
        *made.arguments, *more, f"--config.devices={made.devices}", f"--workdir={workdir}"
    )


@pytest.mark.parametrize("made", ["few"], indirect=True)
def test_a_sweep_killed_while_it_asks_goes_on(made):
    done = go_on(made, made.halfway)
    assert done.status == 0, done.err
    assert not any(done.err.count(word) for word in ("constructed ", "probed "))
    for pair in ("base-instruct", "base-reasoning", "instruct-reasoning"):
        assert evaluation(made.halfway, pair) == evaluation(made.workdir, pair)


@pytest.mark.slow
def test_a_process_killed_while_it_asks_is_continued(env, tmp_path):
    copy = tmp_path / "W"
    arguments = [one for one in ARGUMENTS if "save_variants" not in one]
    calm = harness.sweep(env, *arguments, f"--workdir={tmp_path / 'calm'}")
    assert calm.status == 0, calm.err
    process = harness.start(env, *arguments, f"--workdir={copy}")
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("evaluated 2/5 base-instruct"):
            process.kill()
            break
    process.communicate()
    assert lines[-1].startswith("evaluated 2/5"), "".join(lines)
    done = harness.sweep(env, *arguments, f"--workdir={copy}")
    assert done.status == 0, done.err
    assert not any(done.err.count(word) for word in ("constructed ", "probed "))
    for pair in ("base-base_prime", "base-instruct", "base-reasoning", "instruct-reasoning"):
        assert evaluation(copy, pair) == evaluation(tmp_path / "calm", pair)


def test_other_questions_are_refused(made, tmp_path):
    copy = tmp_path / "W"
    shutil.copytree(made.workdir, copy)
    state = json.loads((copy / "sweep.json").read_text())
    state["inputs"]["benchmarks.questions"]["sha256"] = "0"
    (copy / "sweep.json").write_text(json.dumps(state))
    done = go_on(made, copy)
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


def test_files_that_are_missing_are_named_before_anything_is_computed(tmp_path):
    workdir = tmp_path / "W"
    done = harness.sweep_here(
        "--config=configs/reference.py:quick",
        f"--config.benchmarks.gsm8k={tmp_path / 'none.jsonl'}",
        f"--workdir={workdir}",
    )
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert "config.benchmarks.gsm8k" in line
    assert "none.jsonl" in line
    assert not workdir.exists()
