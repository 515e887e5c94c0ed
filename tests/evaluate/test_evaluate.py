"""`python -m svdjax.evaluate`: real models, real files, real signals."""

from __future__ import annotations

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from svdjax import reference
from svdjax.engine import EvaluateJob, EvaluateOutcome, run_evaluate
from svdjax.errors import InputError
from tests.engine import harness
from tests.support import tiny

INSTRUCT = str(reference.path("instruct"))
QUESTIONS = str(reference.heldout_path())


def evaluate(out: pathlib.Path, **options: Any) -> EvaluateOutcome:
    given: Any = {
        "model": INSTRUCT,
        "benchmark": "questions",
        "data": QUESTIONS,
        "limit": 24,
        "repeats": 2,
        "batch_size": 4,
        "devices": 1,
        "max_new_tokens": 64,
        # Hot enough for wrong answers.
        "temperature": 1.5,
        "top_p": 1.0,
    }
    return run_evaluate(EvaluateJob(out=str(out), **(given | options)))


def lines(out: pathlib.Path) -> list[dict[str, Any]]:
    text = (out / "responses.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> EvaluateOutcome:
    """An undisturbed run."""
    return evaluate(tmp_path_factory.mktemp("evaluate") / "out")


def test_summary_counts_the_responses(done: EvaluateOutcome) -> None:
    found, summary = lines(done.out), json.loads((done.out / "summary.json").read_text("utf-8"))
    assert summary["benchmark"] == "questions"
    assert (summary["n"], summary["repeats"], len(found)) == (24, 2, 48)
    marks = np.array([[one["correct"] for one in found if one["repeat"] == r] for r in (0, 1)])
    assert 50 < summary["accuracy_mean"] < 100
    assert summary["accuracy_mean"] == pytest.approx(100 * marks.mean())
    assert summary["accuracy_std"] == pytest.approx(np.std(100 * marks.mean(axis=1)))
    lengths = np.array([one["tokens"] for one in found]).reshape(2, 24)
    assert summary["tokens_mean"] == pytest.approx(lengths.mean())
    assert summary["tokens_std"] == pytest.approx(np.std(lengths.mean(axis=1)))
    questions = [json.loads(line) for line in pathlib.Path(QUESTIONS).read_text().splitlines()]
    for one, question in zip(found, questions[:24] * 2, strict=True):
        assert one["answer"] == str(question["answer"])
        assert question["question"] in one["prompt"]
        assert "Please put your final answer within \\boxed{}." in one["prompt"]
        assert one["prompt"].endswith("<|im_start|>assistant\n")
        if one["correct"]:
            assert f"\\boxed{{{question['answer']}}}" in one["response"]
    # Two repeats of one question draw differently.
    assert [one["response"] for one in found[:24]] != [one["response"] for one in found[24:]]


def test_finished_does_nothing(done: EvaluateOutcome) -> None:
    again = evaluate(done.out, batch_size=8)
    assert again.was_finished
    assert again.summary["accuracies"] == done.summary["accuracies"]
    with pytest.raises(InputError, match=r"another config: temperature: 1.5 there, 1.0 here"):
        evaluate(done.out, temperature=1.0)


def test_killed_and_continued(
    done: EvaluateOutcome, tmp_path: pathlib.Path, env: dict[str, str]
) -> None:
    out = tmp_path / "out"
    flags = [
        *(f"--model={INSTRUCT}", "--benchmark=questions", f"--data={QUESTIONS}", f"--out={out}"),
        *("--limit=24", "--repeats=2", "--batch_size=4", "--devices=1", "--max_new_tokens=64"),
        *("--temperature=1.5", "--top_p=1.0"),
    ]
    command = [sys.executable, "-m", "svdjax.evaluate", *flags]
    process = subprocess.Popen(command, cwd=harness.ROOT, env=env, stderr=subprocess.PIPE)
    journal = out / ".responses.jsonl"
    deadline = time.monotonic() + 120
    while not (journal.is_file() and journal.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    if process.returncode == -signal.SIGKILL:
        kept = journal.read_bytes()
        # As if the last line had been in the middle of being written.
        journal.write_bytes(kept + b'{"id": "questions/1", "rep')
        assert not (out / "summary.json").exists()
    end = evaluate(out)
    assert end.asked < 48 or process.returncode == 0
    assert lines(out) == lines(done.out)
    ours = json.loads((out / "summary.json").read_text("utf-8"))
    assert {k: v for k, v in ours.items() if k != "seconds"} == {
        k: v for k, v in done.summary.items() if k != "seconds"
    }
    assert not journal.exists()


def test_multiple_choice_and_context(tmp_path: pathlib.Path) -> None:
    # The reference models know no letters; what is asked and where it ends is what counts here.
    (tmp_path / "anatomy_dev.csv").write_text("Which is it?,one,two,three,four,C\n" * 1)
    found = evaluate(
        tmp_path / "out", benchmark="mmlu", data=str(tmp_path), max_new_tokens=9000, repeats=1
    )
    (line,) = lines(tmp_path / "out")
    assert "A.one B.two C.three D.four" in line["prompt"]
    assert line["group"] == "anatomy"
    assert set(found.summary["groups"]) == {"anatomy"}
    assert line["tokens"] < 512


WRONG = {
    "missing column": ("gsm8k", '{"question": "1+1?"}\n', r"line 1.*answer"),
    "truncated line": ("gsm8k", '{"question": "1+1?", "answer": "#### 2"}\n{"quest', "line 2"),
    "other encoding": ("questions", '{"question": "caf\xe9", "answer": 1}\n', "UTF-8"),
    "no questions": ("questions", "\n\n", "holds no question"),
    "long prompt": (
        "questions",
        json.dumps({"question": "books " * 600, "answer": 1}),
        r"question questions/1: its prompt has \d+ tokens.*at most 512",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_data(fault: str, tmp_path: pathlib.Path) -> None:
    benchmark, text, expected = WRONG[fault]
    data = tmp_path / "data.jsonl"
    data.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=expected) as caught:
        evaluate(tmp_path / "out", benchmark=benchmark, data=str(data))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_repeats_left_to_the_default_are_the_same_run(tmp_path: pathlib.Path) -> None:
    some: dict[str, Any] = {"limit": 2, "max_new_tokens": 8}
    assert evaluate(tmp_path, repeats=0, **some).summary["repeats"] == 3
    assert evaluate(tmp_path, repeats=3, **some).was_finished


def test_a_model_without_template(tmp_path: pathlib.Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(INSTRUCT, model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"has no chat template.*--prompt_format=plain"):
        evaluate(tmp_path / "out", model=str(model))
    evaluate(tmp_path / "out", model=str(model), prompt_format="plain", limit=2, repeats=1)
    (first, _) = lines(tmp_path / "out")
    assert first["prompt"].startswith("Please put your final answer within \\boxed{}.\n")


def test_models_that_cannot_answer(tmp_path: pathlib.Path) -> None:
    bare = tiny.make_checkpoint(tmp_path / "bare", "llama")
    with pytest.raises(InputError, match="has no tokenizer"):
        evaluate(tmp_path / "out", model=str(bare))
    strange = tiny.make_checkpoint(tmp_path / "strange", "llama", model_type="gpt2")
    with pytest.raises(InputError, match="model_type is 'gpt2'"):
        evaluate(tmp_path / "out", model=str(strange))


def test_flags_that_are_wrong() -> None:
    with pytest.raises(InputError) as caught:
        EvaluateJob("m", "gsm8k", "d", "o", limit=-1, top_p=0.0, temperature=-1.0, dtype="float8")
    for flag in ("--limit=-1", "--top_p=0.0", "--temperature=-1.0", "--dtype=float8"):
        assert flag in str(caught.value)
    with pytest.raises(InputError) as caught:
        EvaluateJob("m", "gsm9k", "d", "", split="all", prompt_format="none", devices=-1)
    for flag in ("--benchmark=gsm9k", "--out", "--split=all", "--prompt_format=none", "--devices"):
        assert flag in str(caught.value)
    with pytest.raises(InputError, match="every repeat gives the same"):
        EvaluateJob("m", "gsm8k", "d", "o", temperature=0.0, repeats=3)
    assert EvaluateJob("m", "gsm8k", "d", "o", temperature=0.0).rounds == 1
    assert EvaluateJob("m", "gsm8k", "d", "o").rounds == 3


def test_the_command_says_what_is_wrong(tmp_path: pathlib.Path, env: dict[str, str]) -> None:
    base = [sys.executable, "-m", "svdjax.evaluate"]
    shown = subprocess.run([*base, "--help"], cwd=harness.ROOT, env=env, capture_output=True)
    assert shown.returncode == 0
    assert b"--max_new_tokens" in shown.stdout
    assert b"--tensor_parallel" in shown.stdout
    assert b"hf:cais/mmlu" in shown.stdout
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    flags = [f"--model={INSTRUCT}", "--benchmark=gsm8k", f"--data={empty}", f"--out={tmp_path}/o"]
    wrong = subprocess.run([*base, *flags], cwd=harness.ROOT, env=env, capture_output=True)
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert str(empty).encode() in wrong.stderr
    assert not (tmp_path / "o").exists()
