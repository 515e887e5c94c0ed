"""`python -m svdjax.evaluate`: real models, real files."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
import time
from typing import Any
from unittest import mock

import numpy as np
import pytest

from svdjax import reference
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError
from svdjax.evaluate import evaluator
from svdjax.evaluate.benchmarks import in_repeat, read_benchmark
from svdjax.evaluate.job import EvaluateJob
from svdjax.evaluate.run import EvaluateOutcome, run_evaluate
from tests.evaluate.benchmarks.writing import GPQA_HEADER, gpqa_records, write_csv
from tests.support import tiny
from tests.support.commands import call
from tests.support.schemas import check_files
from tests.sweep import harness

INSTRUCT = str(reference.path("instruct"))
QUESTIONS = str(reference.heldout_path())


def evaluate(
    out: pathlib.Path, *, stop: StopRequest | None = None, **options: Any
) -> EvaluateOutcome:
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
    return run_evaluate(EvaluateJob(out=str(out), **(given | options)), stop=stop)


def lines(out: pathlib.Path) -> list[dict[str, Any]]:
    text = (out / "responses.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


class Watch(StopRequest):
    """Stops nothing; copies the output when some answers are kept, as a kill would leave it."""

    def __init__(self, out: pathlib.Path, halfway: pathlib.Path):
        super().__init__()
        self.out, self.halfway = out, halfway

    def check(self, done: str = "") -> None:
        journal = self.out / ".responses.jsonl"
        if not self.halfway.exists() and journal.is_file() and journal.stat().st_size:
            harness.snapshot(self.out, self.halfway)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[EvaluateOutcome, pathlib.Path]:
    """An undisturbed run, and what a kill would have left in the middle of it."""
    root = tmp_path_factory.mktemp("evaluate")
    # Answers are kept as they come, not second by second.
    with mock.patch.object(evaluator, "_WRITE_SECONDS", 0.0):
        watch = Watch(root / "out", root / "halfway")
        return evaluate(root / "out", stop=watch), root / "halfway"


@pytest.fixture(scope="module")
def done(run: tuple[EvaluateOutcome, pathlib.Path]) -> EvaluateOutcome:
    return run[0]


@pytest.fixture
def halfway(run: tuple[EvaluateOutcome, pathlib.Path], tmp_path: pathlib.Path) -> pathlib.Path:
    return shutil.copytree(run[1], tmp_path / "halfway")


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


def test_every_json_file_is_as_its_schema_says(done: EvaluateOutcome) -> None:
    assert check_files(done.out) == {"evaluate_summary", "evaluate_record", "response"}


def test_finished_does_nothing(done: EvaluateOutcome) -> None:
    # As if it had been killed just before it removed this.
    journal = done.out / ".responses.jsonl"
    journal.write_bytes(b"{}\n")
    again = evaluate(done.out, batch_size=8)
    assert again.was_finished
    assert not journal.exists()
    assert again.summary["accuracies"] == done.summary["accuracies"]
    with pytest.raises(InputError, match=r"another config: temperature: 1.5 there, 1.0 here"):
        evaluate(done.out, temperature=1.0)


def test_killed_and_continued(done: EvaluateOutcome, halfway: pathlib.Path) -> None:
    journal = halfway / ".responses.jsonl"
    kept = journal.read_bytes()
    assert 0 < kept.count(b"\n") < 48
    # As if the last line had been in the middle of being written.
    journal.write_bytes(kept + b'{"id": "questions/1", "rep')
    assert not (halfway / "summary.json").exists()
    end = evaluate(halfway)
    assert end.asked == 48 - kept.count(b"\n")
    assert lines(halfway) == lines(done.out)
    ours = json.loads((halfway / "summary.json").read_text("utf-8"))
    assert {k: v for k, v in ours.items() if k != "seconds"} == {
        k: v for k, v in done.summary.items() if k != "seconds"
    }
    assert not journal.exists()


@pytest.mark.slow
def test_a_killed_process_is_continued(
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
    end = evaluate(out)
    assert end.asked < 48 or process.returncode == 0
    assert lines(out) == lines(done.out)


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


def test_every_repeat_of_gpqa_asks_in_its_own_order(tmp_path: pathlib.Path) -> None:
    data = write_csv(tmp_path / "gpqa.csv", [GPQA_HEADER, *gpqa_records(6)])
    evaluate(
        tmp_path / "out", benchmark="gpqa", data=str(data), repeats=3, max_new_tokens=4, limit=0
    )
    answers = lines(tmp_path / "out")
    questions = read_benchmark("gpqa", data)
    orders = set()
    for number, line in enumerate(answers):
        repeat, question = number // 6, questions[number % 6]
        assert (line["id"], line["repeat"]) == (question.id, repeat)
        assert f" {line['answer']}.right {number % 6} " in line["prompt"]
        assert in_repeat(question, repeat).text in line["prompt"]
        orders.add((number % 6, line["prompt"]))
    # 18 prompts, of which 1 of 24 may be alike by chance.
    assert len(orders) > 15


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


def test_a_process_answers_the_same(tmp_path: pathlib.Path, env: dict[str, str]) -> None:
    evaluate(tmp_path / "here", repeats=3, limit=2, max_new_tokens=8)
    flags = [
        *(f"--model={INSTRUCT}", "--benchmark=questions", f"--data={QUESTIONS}"),
        *(f"--out={tmp_path / 'there'}", "--limit=2", "--repeats=3", "--batch_size=4"),
        *("--devices=1", "--max_new_tokens=8", "--temperature=1.5", "--top_p=1.0"),
    ]
    command = [sys.executable, "-m", "svdjax.evaluate", *flags]
    done = subprocess.run(command, cwd=harness.ROOT, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert lines(tmp_path / "here") == lines(tmp_path / "there")


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


def test_the_command_says_what_is_wrong(tmp_path: pathlib.Path) -> None:
    shown = call("evaluate", "--help")
    assert shown.status == 0
    for part in ("--max_new_tokens", "--tensor_parallel", "hf:cais/mmlu"):
        assert part in shown.out
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    flags = [f"--model={INSTRUCT}", "--benchmark=gsm8k", f"--data={empty}", f"--out={tmp_path}/o"]
    wrong = call("evaluate", *flags)
    assert wrong.status == 2
    assert len(wrong.err.splitlines()) == 1
    assert str(empty) in wrong.err
    assert not (tmp_path / "o").exists()
