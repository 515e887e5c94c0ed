"""The model "svdjax" of lm-evaluation-harness, against the harness's own Hugging Face model."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from svdjax import reference
from svdjax.errors import InputError
from tests.support import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]
INSTRUCT = str(reference.path("instruct"))
# A third of the model's context, so that windows and truncation matter.
MAX_LENGTH = 160
# Sums of at most 160 log-probabilities, of which float32 logits (1e-6 of 20) make 1e-5 each wrong.
TOLERANCE = 1e-3


def command(*arguments: str, hidden: str = "", path: str = "", devices: int = 1) -> Any:
    """Runs the command in a process of its own, libraries hidden from it or on another path."""
    run = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({hidden.split()!r}));"
        f"sys.argv[1:] = {list(arguments)!r}; runpy.run_module('svdjax.harness', None, '__main__')"
    )
    env = os.environ | {
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (path, str(ROOT)))),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.run(
        [sys.executable, "-c", run], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
    )


def test_door_without_lm_eval() -> None:
    done = command("--model", "svdjax", "--tasks", "any", hidden="lm_eval")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("python -m svdjax.harness: lm-evaluation-harness cannot be imported")
    assert line.endswith("pip install 'svdjax[harness]'")


STUB = {
    "__init__.py": "",
    "__main__.py": "import sys\nfrom lm_eval.api.registry import MODELS\n"
    "def cli_evaluate(): print(*MODELS, *sys.argv)\n",
    "api/model.py": "class TemplateLM: pass\n",
    "api/registry.py": "MODELS = []\n"
    "def register_model(name): return lambda kind: MODELS.append(name) or kind\n",
    "models/utils.py": "handle_stop_sequences = has_bos_prefix = normalize_gen_kwargs = None\n"
    "postprocess_generated_text = None\n",
    "utils.py": "get_rolling_token_windows = make_disjoint_window = None\n",
}
"""What the command needs of lm_eval, for where that is not installed."""


def test_the_command_registers_the_model(tmp_path: pathlib.Path) -> None:
    for name, text in STUB.items():
        file = tmp_path / "lm_eval" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
    done = command("--tasks", "any", path=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "svdjax lm-eval --tasks any\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_needs_nothing_heavy(arguments: list[str]) -> None:
    done = command(*arguments, hidden="lm_eval jax torch transformers numpy")
    assert (done.returncode, done.stderr) == (0, "")
    assert "python -m svdjax.harness run --help" in done.stdout
    assert "tensor_parallel" in done.stdout


@pytest.fixture(scope="module")
def lm_eval(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        # Those of the libraries that it is built on.
        warnings.simplefilter("ignore")
        yield pytest.importorskip("lm_eval")


@pytest.fixture(scope="module")
def ours(lm_eval: Any) -> Any:
    from svdjax.harness.model import SvdjaxLM

    options = f"pretrained={INSTRUCT},max_length={MAX_LENGTH},batch_size=4,devices=1"
    return SvdjaxLM.create_from_arg_string(options)


def hugging_face(path: str, **options: Any) -> Any:
    """The harness's own model, in batches of one: in others, rows stop where the slowest does."""
    for library in ("torch", "accelerate"):
        pytest.importorskip(library)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

        # Its cache of logits takes the wrong ones where one text is split in two ways.
        options |= {"batch_size": 1, "logits_cache": False}
        return HFLM(path, dtype="float32", device="cpu", **options)


@pytest.fixture(scope="module")
def theirs(lm_eval: Any) -> Any:
    return hugging_face(INSTRUCT, max_length=MAX_LENGTH)


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]

    return [Instance(kind, {}, each, index) for index, each in enumerate(arguments)]


def lines() -> list[dict[str, str]]:
    path = reference.text_path("instruct")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def begun(line: dict[str, str]) -> tuple[str, str]:
    """The question with the answer up to its first "=", and the rest, which the model knows."""
    head, equals, tail = line["completion"].partition("=")
    return line["prompt"] + head + equals, tail


PAIRS: list[tuple[str, str]] = [
    *((one["prompt"], one["completion"]) for one in lines()[:3]),
    *(begun(one) for one in lines()[:3]),
    # Answers of one token, and a question that is asked twice.
    *((lines()[0]["prompt"], answer) for answer in ("6", "7", "8", "6")),
    # The space belongs to the continuation, wherever it is written.
    *(("There are 5 books ", "now."), ("There are 5 books", " now."), ("a \n ", "b c")),
    *(("", "There are 5 books."), ("", "<|im_end|>There"), ("x", "<|im_end|>")),
    # Longer than the model sees: cut from the left.
    *(("books and stamps " * 150, "are 5."), ("a b", " stamps" * 60), ("Café 中", "文")),
]
TEXTS = ["books and oranges " * 200, "One.", lines()[0]["prompt"], "<|im_end|>a b " * 70, "é 中 文"]


def test_likelihoods(ours: Any, theirs: Any) -> None:
    asked = requests("loglikelihood", PAIRS)
    found = ours.loglikelihood(asked, disable_tqdm=True)
    wanted = theirs.loglikelihood(asked, disable_tqdm=True)
    np.testing.assert_allclose([a for a, _ in found], [b for b, _ in wanted], atol=TOLERANCE)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
    assert {greedy for _, greedy in found} == {True, False}


def test_rolling_likelihoods(ours: Any, theirs: Any) -> None:
    asked = requests("loglikelihood_rolling", [(text,) for text in TEXTS])
    assert len(ours.tok_encode(TEXTS[0])) > 3 * MAX_LENGTH
    found = ours.loglikelihood_rolling(asked, disable_tqdm=True)
    wanted = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    # Thousands of tokens whose errors add up.
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=TOLERANCE)


GREEDY: dict[str, dict[str, Any]] = {
    "default": {"until": ["\n\n"], "max_gen_toks": 40},
    "no stop": {"until": [], "max_gen_toks": 12, "do_sample": False, "temperature": 0.7},
    "text": {"until": ["boxed", "="], "max_new_tokens": 40, "temperature": 0.0, "top_k": 5},
    "special": {"until": "<|im_start|>", "max_gen_toks": 60},
    "empty": {"until": [""], "max_gen_toks": 20},
    "several tokens": {"until": ["}<"], "max_gen_toks": 40, "num_beams": 1, "top_p": None},
}


def test_greedy_generation(ours: Any, theirs: Any) -> None:
    contexts = [one["prompt"] for one in lines()[:2]]
    contexts += ["There are 5 books", "books and stamps " * 150, "Leo <|im_start|>"]
    pairs = [(context, settings) for settings in GREEDY.values() for context in contexts]
    asked = requests("generate_until", pairs)
    found = ours.generate_until(asked, disable_tqdm=True)
    with warnings.catch_warnings():
        # `generate` warns of settings that do nothing.
        warnings.simplefilter("ignore")
        wanted = theirs.generate_until(asked, disable_tqdm=True)
    for pair, one, other in zip(pairs, found, wanted, strict=True):
        assert one == other, pair
    assert sum(map(bool, found)) > len(found) / 2


@pytest.mark.parametrize("add_bos_token", [None, True, False])
def test_tokenizer_with_bos(add_bos_token: bool | None, lm_eval: Any, tmp_path: Any) -> None:
    """A tiny random llama whose tokenizer puts a bos token in front."""
    from svdjax.harness.model import SvdjaxLM

    path = tiny.make_checkpoint(tmp_path, "llama", vocab_size=896, max_position_embeddings=64)
    tokenizer = json.loads(pathlib.Path(INSTRUCT, "tokenizer.json").read_text("utf-8"))
    bos = {"id": "<|im_start|>", "ids": [894], "tokens": ["<|im_start|>"]}
    front = [{"SpecialToken": {"id": bos["id"], "type_id": 0}}]
    text = [{"Sequence": {"id": each, "type_id": 0}} for each in "AB"]
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing",
        "single": front + text[:1],
        "pair": front + text,
        "special_tokens": {bos["id"]: bos},
    }
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    kind = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps(settings | kind), "utf-8")
    ours = SvdjaxLM(str(path), add_bos_token=add_bos_token, devices=1, batch_size=4)
    theirs = hugging_face(str(path), add_bos_token=add_bos_token)
    assert ours.max_length == theirs.max_length == 64
    texts = ["a b", "<|im_start|>a b", "", "books " * 100]
    for one in texts:
        assert ours.tok_encode(one) == theirs.tok_encode(one)
    found, wanted = (
        np.array(
            [
                *each.loglikelihood(
                    requests("loglikelihood", [(one, " c 5.") for one in texts]), disable_tqdm=True
                ),
                *(
                    (total, False)
                    for total in each.loglikelihood_rolling(
                        requests("loglikelihood_rolling", [(one,) for one in texts]),
                        disable_tqdm=True,
                    )
                ),
            ]
        )
        for each in (ours, theirs)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=TOLERANCE)
    asked = requests("generate_until", [(one, {"max_gen_toks": 8}) for one in texts if one])
    assert ours.generate_until(asked, disable_tqdm=True) == theirs.generate_until(
        asked, disable_tqdm=True
    )


def test_draws_depend_on_seed_and_request_alone(ours: Any) -> None:
    hot = {"until": [], "do_sample": True, "temperature": 3.0, "top_p": 0.99, "max_gen_toks": 24}
    context = lines()[0]["prompt"]
    asked = requests("generate_until", [(context, hot)] * 3 + [(context, hot | {"top_p": 0.5})])
    found = ours.generate_until(asked, disable_tqdm=True)
    assert len(set(found)) == 4
    assert ours.generate_until(asked[:2], disable_tqdm=True) == found[:2]


def test_chat_and_cached_answers(ours: Any, theirs: Any) -> None:
    turns = [{"role": "system", "content": "Count."}, {"role": "user", "content": "1+1?"}]
    for prompting in (True, False):
        assert ours.apply_chat_template(turns, prompting) == theirs.apply_chat_template(
            turns, prompting
        )
    assert ours.chat_template(True) == theirs.chat_template(True)
    assert ours.tokenizer_name == theirs.tokenizer_name
    kept: list[Any] = []
    before = ours.cache_hook
    ours.cache_hook = type("Hook", (), {"add_partial": lambda self, *some: kept.append(some)})()
    pair, text = ("a b", " c"), ("books " * 300,)
    settings = {"until": ["x"], "max_gen_toks": 3}
    ours.loglikelihood(requests("loglikelihood", [pair]), disable_tqdm=True)
    ours.loglikelihood_rolling(requests("loglikelihood_rolling", [text]), disable_tqdm=True)
    ours.generate_until(requests("generate_until", [("a", settings)]), disable_tqdm=True)
    ours.cache_hook = before
    assert [(kind, request) for kind, request, _ in kept] == [
        ("loglikelihood", pair),
        ("loglikelihood_rolling", text),
        ("generate_until", ("a", settings)),
    ]


WRONG_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"repetition_penalty": 1.3}, r"repetition_penalty=1.3: model svdjax knows until"),
    "beams": ({"num_beams": 4}, "num_beams=4"),
    "cold": ({"do_sample": True}, "needs a temperature above 0"),
    "top_p": ({"temperature": 1.0, "top_p": 0.0}, "top_p is 0.0"),
    "top_k": ({"temperature": 1.0, "top_k": 20}, "top_k=20"),
    "long": ({"max_gen_toks": MAX_LENGTH}, "leaves no room for a prompt in max_length=160"),
}


@pytest.mark.parametrize("name", WRONG_SETTINGS)
def test_settings_that_are_not_known(name: str, ours: Any) -> None:
    settings, expected = WRONG_SETTINGS[name]
    settings = {"max_gen_toks": 8} | settings
    with pytest.raises(InputError, match=expected):
        ours.generate_until(requests("generate_until", [("a", settings)]), disable_tqdm=True)


def test_requests_that_cannot_be_answered(ours: Any) -> None:
    for pair, expected in (
        (("a", ""), "0 of continuation; expected at least one"),
        (("a", " stamps" * 200), "the model sees at most max_length=160"),
    ):
        with pytest.raises(InputError, match=expected):
            ours.loglikelihood(requests("loglikelihood", [pair]), disable_tqdm=True)


WRONG_ARGUMENTS = {
    "": "needs --model_args pretrained",
    "pretrained=nowhere": "checkpoint nowhere: no such directory",
    f"pretrained={INSTRUCT},dtype=float16": "dtype=float16: expected float32 or bfloat16",
    f"pretrained={INSTRUCT},batch_size=0": "batch_size=0: expected a number of at least 1",
    f"pretrained={INSTRUCT},max_length=x": "max_length=x: expected a number of at least 1",
    f"pretrained={INSTRUCT},peft=x": "has no argument peft; it knows pretrained",
    f"pretrained={INSTRUCT},devices=99": "devices=99: this process has",
}


@pytest.mark.parametrize("arguments", WRONG_ARGUMENTS)
def test_arguments_that_cannot_be_used(arguments: str, lm_eval: Any) -> None:
    from svdjax.harness.model import SvdjaxLM

    with pytest.raises(InputError, match=WRONG_ARGUMENTS[arguments]):
        SvdjaxLM.create_from_arg_string(arguments)


TASKS = {
    "numbers": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": ["{{answer}}", "{{answer + 1}}", "{{answer - 1}}"],
        # The first is right, and here a third of the answers: so the metrics are no round numbers.
        "doc_to_target": "{{answer % 3}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "solutions": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "\\boxed{{'{'}}{{answer}}{{'}'}}",
        "generation_kwargs": {"until": ["<|im_start|>"], "max_gen_toks": 60},
        "filter_list": [
            {
                "name": "boxed",
                "filter": [
                    {"function": "regex", "regex_pattern": "(\\\\boxed\\{[^}]*\\})"},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match"}],
    },
    "texts": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{question}}",
        "metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    },
}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with tasks on local files."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = reference.heldout_path().read_text("utf-8").splitlines()[:16]
    (folder / "questions.jsonl").write_text("\n".join(questions) + "\n", "utf-8")
    for name, task in TASKS.items():
        data = {"data_files": str(folder / "questions.jsonl")}
        of_all = {"task": name, "dataset_path": "json", "dataset_kwargs": data}
        # JSON is YAML.
        text = json.dumps(of_all | {"test_split": "train"} | task)
        (folder / f"{name}.yaml").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def results(lm_eval: Any, tasks: pathlib.Path) -> Any:
    """What `simple_evaluate` finds with a model."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    @functools.cache
    def find(model: str) -> dict[str, dict[str, Any]]:
        options = {"devices": 1} if model == "svdjax" else {"device": "cpu"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return lm_eval.simple_evaluate(
                model=model,
                model_args={"pretrained": INSTRUCT, "dtype": "float32", "batch_size": 8} | options,
                tasks=list(TASKS),
                task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
                apply_chat_template=True,
                bootstrap_iters=0,
            )["results"]

    return find


def assert_same_metrics(found: dict[str, dict[str, Any]], wanted: dict[str, Any]) -> None:
    assert set(found) == set(wanted) == set(TASKS)
    for name in TASKS:
        assert set(found[name]) == set(wanted[name])
        for key, value in found[name].items():
            if "stderr" not in key:
                other = wanted[name][key]
                # Means of the likelihoods above; counts are equal.
                assert value == (pytest.approx(other, rel=1e-5) if type(value) is float else other)


def test_simple_evaluate(theirs: Any, results: Any) -> None:
    assert results("svdjax")["solutions"]["exact_match,boxed"] > 0.9
    assert 0 < results("svdjax")["numbers"]["acc,none"] < 1
    assert_same_metrics(results("svdjax"), results("hf"))


def test_command_on_two_devices(results: Any, tasks: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = command(
        *("--model", "svdjax", "--model_args", f"pretrained={INSTRUCT}", "--batch_size", "auto"),
        *("--tasks", ",".join(TASKS), "--include_path", str(tasks)),
        *("--apply_chat_template", "--output_path", str(tmp_path)),
        devices=2,
    )
    assert done.returncode == 0, done.stderr
    assert "|solutions|" in done.stdout
    (file,) = tmp_path.rglob("results_*.json")
    assert_same_metrics(json.loads(file.read_text("utf-8"))["results"], results("svdjax"))


def test_command_without_checkpoint(lm_eval: Any, tasks: pathlib.Path) -> None:
    done = command("--model", "svdjax", "--tasks", "numbers", "--include_path", str(tasks))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "python -m svdjax.harness: model svdjax needs --model_args pretrained=DIR or org/name"
    )
