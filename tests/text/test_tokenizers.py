"""Tokenizers and chat templates that hang, abort, ask for all memory or lead elsewhere."""

from __future__ import annotations

import base64
import gc
import json
import os
import pathlib
import resource
import shutil
import signal
import time
from typing import Any

import pytest

from svdjax import reference
from svdjax.checkpoint import model_config
from svdjax.errors import InputError
from svdjax.text import tokenizers
from svdjax.text.chat import ChatModel
from svdjax.text.worker import Worker, WorkerLost

INSTRUCT = reference.path("instruct")
CONFIG = model_config(INSTRUCT)
FILES = ("tokenizer.json", "tokenizer_config.json", "config.json")
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


def copied(folder: pathlib.Path, template: str = "", **changes: dict[str, Any]) -> pathlib.Path:
    """The reference family's tokenizer; `changes` by file name without suffix."""
    folder.mkdir(exist_ok=True)
    for name in FILES:
        fields = json.loads((INSTRUCT / name).read_text("utf-8"))
        fields |= changes.get(name.removesuffix(".json"), {})
        (folder / name).write_text(json.dumps(fields), "utf-8")
    if template:
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder


def ask(folder: pathlib.Path, question: str = "12 + 30?") -> str:
    chat = ChatModel(folder, CONFIG)
    return chat.decode(chat.prompt(question, "", "question 7").tokens)


def refusal(folder: pathlib.Path, *words: str, question: str = "12 + 30?") -> None:
    with pytest.raises(InputError) as caught:
        ask(folder, question)
    for word in words:
        assert word in str(caught.value), caught.value


def test_templates_that_hang(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "CALL_SECONDS", 0.5)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = copied(tmp_path / "loop", LOOP)
    refusal(folder, str(folder), "chat template takes more than 0.5 s of computing", "publisher")
    wanted = ask(INSTRUCT)
    # Which message it is may decide.
    some = "{% if 'x' in messages[0]['content'] %}" + LOOP + "{% endif %}"
    folder = copied(tmp_path / "some", some + "{{ messages[0]['content'] }}")
    assert ask(folder) == "12 + 30?"
    refusal(folder, str(folder), "takes more than 0.5 s", question="x")
    assert ask(folder) == "12 + 30?"
    folder = copied(tmp_path / "large", "{{ messages[0]['content'] * 10**10 }}")
    refusal(folder, "question 7", "chat template fails (MemoryError)")
    folder = copied(tmp_path / "long", "{{ messages[0]['content'] * 10**7 }}")
    refusal(folder, "gives 80000000 characters, of which at most")
    assert ask(INSTRUCT) == wanted
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


@pytest.mark.parametrize(
    "charsmap", [b"\xff" * 64, b"\xff\xff\xff\x7f" + bytes(10), b"\xfc\xff\xff\xff" + b"\1" * 400]
)
def test_tokenizers_that_end_their_process(charsmap: bytes, tmp_path: pathlib.Path) -> None:
    """A Precompiled normaliser whose table is damaged panics or aborts."""
    table = base64.b64encode(charsmap).decode()
    normaliser = {"type": "Precompiled", "precompiled_charsmap": table}
    general = {"tokenizer_class": "PreTrainedTokenizerFast"}
    folder = copied(
        tmp_path / "model",
        **{"tokenizer": {"normalizer": normaliser}, "tokenizer_config": general},
    )
    refusal(folder, str(folder), "has no tokenizer that can be read")
    began = time.monotonic()
    refusal(folder, str(folder), "has no tokenizer that can be read")
    assert time.monotonic() - began < 0.5


def test_sizes_that_hang(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers reads config.json where no class is named, and makes a list by the layers."""
    monkeypatch.setattr(tokenizers, "LOAD_SECONDS", 1.0)
    folder = copied(
        tmp_path / "model",
        **{"config": {"num_hidden_layers": 10**30}, "tokenizer_config": {"tokenizer_class": None}},
    )
    refusal(folder, str(folder), "takes more than 1 s of computing", "publisher")


@pytest.mark.parametrize("kind", [5, [], {}, ["x"], "../x", "__class__", "x" * 100_000])
def test_odd_classes(kind: Any, tmp_path: pathlib.Path) -> None:
    folder = copied(tmp_path / "model", tokenizer_config={"tokenizer_class": kind})
    if isinstance(kind, str):
        assert ask(folder) == ask(INSTRUCT)
    else:
        refusal(folder, str(folder), "has no tokenizer that can be read")


def test_links_pipes_and_sizes(tmp_path: pathlib.Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("{{ 1 }}")
    for name in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        folder = copied(tmp_path / f"link-{name}")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside)
        refusal(folder, name, "link to", "outside its directory")
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refusal(folder, name, "not a regular file")
    folder = copied(tmp_path / "large")
    with (folder / "special_tokens_map.json").open("wb") as file:
        file.truncate(17 << 20)
    refusal(folder, "special_tokens_map.json", "expected at most 16777216")
    folder = copied(tmp_path / "more")
    (tmp_path / "templates").mkdir()
    (folder / "additional_chat_templates").symlink_to(tmp_path / "templates")
    refusal(folder, "additional_chat_templates: is a link")
    (folder / "additional_chat_templates").unlink()
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "x.jinja").symlink_to(outside)
    refusal(folder, "x.jinja", "outside its directory")


def test_what_is_missing_is_named(tmp_path: pathlib.Path) -> None:
    folder = copied(tmp_path / "none", tokenizer_config={"tokenizer_class": "LlamaTokenizer"})
    (folder / "tokenizer.json").unlink()
    refusal(folder, "has no tokenizer; expected one of", "tokenizer.json")
    (folder / "tokenizer.model").write_bytes(b"\x0a\x05\x0a\x01a\x15\x00")
    if tokenizers.importlib.util.find_spec("sentencepiece") is None:
        refusal(folder, "tokenizer.model", "pip install sentencepiece", "tokenizer.json")


def test_equal_tokenizers_share_a_process(tmp_path: pathlib.Path) -> None:
    gc.collect()
    first = ChatModel(copied(tmp_path / "one"), CONFIG)
    second = ChatModel(copied(tmp_path / "two"), CONFIG)
    other = ChatModel(copied(tmp_path / "other", "{{ messages[0]['content'] }}"), CONFIG)
    hosts = [each._tokenizer._loaded for each in (first, second, other)]
    assert hosts[0] is hosts[1]
    assert hosts[0].worker is not hosts[2].worker
    assert first.prompt("1", "", "q") == second.prompt("1", "", "q")
    assert other.prompt("1", "", "q").text == "1"
    # Nobody uses it any more: the next one takes it over.
    process = hosts[2].worker.running()
    del other, hosts
    gc.collect()
    shutil.rmtree(tmp_path / "other")
    third = ChatModel(copied(tmp_path / "third", "{{ 3 }}"), CONFIG)
    assert third._tokenizer._loaded.worker.running() is process
    assert third.prompt("1", "", "q").text == "3"


def test_a_lost_process_is_replaced(tmp_path: pathlib.Path) -> None:
    chat = ChatModel(copied(tmp_path / "model", "{{ messages[0]['content'] }}!"), CONFIG)
    process = chat._tokenizer._loaded.worker.running()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert chat.prompt("1", "", "q").text == "1!"


HANDLER = """
import os, signal, time
def prepare():
    seen = []
    def handle(request):
        seen.append(request["do"])
        if request["do"] == "die":
            os.kill(os.getpid(), signal.SIGABRT)
        if request["do"] == "spin":
            while True: pass
        if request["do"] == "sleep":
            time.sleep(600)
        if request["do"] == "panic":
            raise BaseException("panic")
        if request["do"] == "take":
            bytearray(1 << 40)
        if request["do"] == "much":
            return {"text": "x" * (3 << 20)}
        return {"seen": len(seen)}
    return handle
"""


def gone(group: int) -> bool:
    """Whether all processes of a group end soon."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_isolated_work(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("svdjax.text.worker._MOST_REPLY", 1 << 20)
    (tmp_path / "handler.py").write_text(HANDLER)
    worker = Worker(tmp_path / "handler.py", 2 << 30)
    assert worker.ask({"do": ""}, 10) == {"seen": 1}
    assert worker.ask({"do": ""}, 10) == {"seen": 2}
    process = worker.running()
    for do, words in (
        ("die", r"ends the process that reads it \(SIGABRT\)"),
        ("spin", r"more than 0\.2 s of computing"),
        ("sleep", r"more than 1 s$"),
    ):
        with pytest.raises(WorkerLost, match=words):
            worker.ask({"do": do}, 1, 0.2)
        assert worker.ask({"do": ""}, 10) == {"seen": 1}
    assert worker.ask({"do": "panic"}, 10)["kinds"][0] == "BaseException"
    assert worker.ask({"do": ""}, 10) == {"seen": 1}
    assert worker.ask({"do": "take"}, 10)["kinds"][0] == "MemoryError"
    # The importing process is the same all the time.
    assert worker.running() is process
    assert worker.losses == 5
    with pytest.raises(WorkerLost, match="gives more than 1 MiB"):
        worker.ask({"do": "much"}, 60)
    worker.close()
    assert process.returncode == -signal.SIGKILL
    # Its child is no child of ours.
    assert gone(process.pid)
