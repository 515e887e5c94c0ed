"""Tokenizers as they lie beside models (../shared/cases/case_18_tokenizers.py)."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

from svdjax import reference
from svdjax.checkpoint import model_config, open_checkpoint
from svdjax.errors import InputError
from svdjax.text.chat import ChatModel, chat_model

SYSTEM = "<|im_start|>system\nSys.<|im_end|>\n"
TEXT = f"{SYSTEM}<|im_start|>user\n1 + 1?<|im_end|>\n<|im_start|>assistant\n"
PROMPTS = {
    "jinja_file": TEXT,
    "template_list": TEXT,
    "eos_list": TEXT,
    "auto_tokenizer_class": TEXT,
    # No code of the checkpoint is run: its tokenizer.json does without.
    "remote_tokenizer": TEXT,
    "extra_list": TEXT,
    "max_pos_131072": TEXT,
    "thinking": TEXT + "<think>\n",
    "no_system": TEXT.replace(SYSTEM, "").replace("1 + 1", "Sys.\n\n1 + 1"),
}
REFUSALS = {
    "no_template": "has no chat template; expected chat_template.jinja",
    "no_tokenizer_config": "has no chat template; expected chat_template.jinja",
    "template_list_no_default": "chat templates rag, tool_use, and none is named default",
    "model_only": "tokenizer.model is read by sentencepiece, which is not installed; pip install",
}


@pytest.fixture(scope="module")
def cases(shared: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("case_18")
    script = shared / "cases" / "case_18_tokenizers.py"
    command = [sys.executable, script, root, reference.path("instruct")]
    subprocess.run(command, check=True, cwd=script.parent)
    return root


def chat(path: pathlib.Path, prompt_format: str = "chat") -> ChatModel:
    with open_checkpoint(path) as checkpoint:
        return chat_model(checkpoint, model_config(checkpoint), prompt_format)


@pytest.mark.parametrize("case", PROMPTS)
def test_makes_the_prompt(cases: pathlib.Path, case: str) -> None:
    model = chat(cases / case)
    assert model.prompt("1 + 1?", "Sys.", "here").text == PROMPTS[case]
    assert model.stop_tokens == ({893, 895} if case == "eos_list" else {895})


def test_a_template_may_tell_the_day(cases: pathlib.Path) -> None:
    assert chat(cases / "strftime").prompt("1 + 1?", "Sys.", "here").text.endswith(TEXT)


@pytest.mark.parametrize("case", REFUSALS)
def test_says_what_is_missing(
    cases: pathlib.Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        chat(cases / case)
    assert REFUSALS[case] in str(caught.value)
    if case != "model_only":
        assert chat(cases / case, "plain").prompt("1 + 1?", "Sys.", "here").tokens
