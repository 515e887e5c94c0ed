"""Damaged tokenizers, templates and question files: an `InputError` in one line or a success.

Of no input does the process end, take over 5 s more than what the limits say, or grow much.
"""

from __future__ import annotations

import base64
import copy
import functools
import json
import pathlib
import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from svdjax import reference
from svdjax.checkpoint import model_config
from svdjax.errors import InputError
from svdjax.evaluate.benchmarks import read_benchmark
from svdjax.text import tokenizers
from svdjax.text.chat import ChatModel
from svdjax.text.prompts import read_prompts
from svdjax.text.texts import Text, read_texts, tokenise
from tests.evaluate.benchmarks.writing import (
    COMMONSENSE,
    GPQA_HEADER,
    MATH500,
    gpqa_records,
    write_csv,
    write_jsonl,
)

INSTRUCT = reference.path("instruct")
CONFIG = model_config(INSTRUCT)
MOST_GROWTH = 500 << 10  # KiB, as getrusage counts
Draw = np.random.Generator
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 10**6, 2**31, 2**32 - 1, 2**64, 10**30, 0.5, 1e308, float("nan")),
    *("", "x", "\ud800", "\x1b[2J\n", "x" * 100_000, "Regex", "ByteLevel", "Precompiled", "Ġ"),
    *([], [1], [[]], [{}], ["x", "y"], [["a", "b"]] * 9, {}, {"a": 1}, {"x": {"y": []}}),
    *({"Regex": "(a|a)*b"}, {"Regex": "("}, {"String": ""}, json.loads("[" * 200 + "]" * 200)),
)
NORMALISERS = (
    {"type": "Replace", "pattern": {"Regex": "(.*)*=" + "x?" * 30}, "content": "y"},
    {"type": "Replace", "pattern": {"Regex": "."}, "content": "x" * 100_000},
    {"type": "Prepend", "prepend": "x" * 10**6},
    {"type": "Strip", "strip_left": True, "strip_right": True},
    {"type": "BertNormalizer", "clean_text": True},
)
TEMPLATES = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% if messages[0]['content'] | length > 9 %}{{ 'x' * 10**10 }}{% endif %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ [messages] * 10**8 }}",
    "{{ ''.__class__.__mro__ }}{{ cycler.__init__.__globals__ }}",
    "{{ '%0100000000d' % 1 }}",
    "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
)


def damaged_json(value: Any, draw: Draw) -> Any:
    """A value, and a few of its parts replaced, removed, repeated or exchanged."""
    value = copy.deepcopy(value)
    for _ in range(draw.integers(1, 4)):
        inner = value
        while True:
            keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            if not keys:
                break
            key = keys[draw.integers(len(keys))]
            child = inner[key]
            if not (isinstance(child, dict | list) and child and draw.random() < 0.6):
                kind = draw.integers(6)
                other = keys[draw.integers(len(keys))]
                if kind == 0:
                    del inner[key]
                elif kind == 1:
                    inner[key] = [child, child]
                elif kind == 2:
                    inner[key] = inner[other]
                else:
                    inner[key] = copy.deepcopy(ODD[draw.integers(len(ODD))])
                break
            inner = child
    return value


def damaged_bytes(content: bytes, draw: Draw) -> bytes:
    """Flipped, cut, scribbled over and doubled."""
    found = bytearray(content)
    for _ in range(draw.integers(1, 4)):
        where = int(draw.integers(len(found) or 1))
        kind, length = draw.integers(5), int(draw.integers(1, 40))
        if kind == 0 and found:
            found[where % len(found)] ^= 1 << int(draw.integers(8))
        elif kind == 1:
            found[where : where + 1] = bytes([draw.choice(list(b'0-.,:[]{}"\\e\x00\xff\n\r%'))])
        elif kind == 2:
            del found[where : where + length]
        elif kind == 3:
            found[where:where] = found[where : where + length] * 3
        else:
            del found[where:]
    return bytes(found)


class Limits:
    """Times and memory of inputs that are tried one after the other."""

    def __init__(self, seconds: float):
        self._seconds, self.refusals = seconds, 0
        self._before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def attempt(self, what: object, read: Callable[[], object]) -> None:
        began = time.monotonic()
        try:
            read()
        except InputError as error:
            self.refusals += 1
            line = str(error)
            assert line, what
            assert line.isprintable(), what
            assert len(line) <= 2000, what
        assert time.monotonic() - began < self._seconds, what
        growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._before
        assert growth < MOST_GROWTH, what


def folders(root: pathlib.Path, draw: Draw) -> Iterator[pathlib.Path]:
    """Damaged tokenizers, each in the place of the last."""
    fields, settings, config = (
        json.loads((INSTRUCT / name).read_text("utf-8"))
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json")
    )
    # Which class reads it: qwen2's makes its own of vocabulary and merges.
    general = settings | {"tokenizer_class": "PreTrainedTokenizerFast"}
    root.mkdir()
    while True:
        written = {
            "tokenizer.json": fields,
            "tokenizer_config.json": general if draw.random() < 0.8 else settings,
            "config.json": config | {"model_type": "llama"},
        }
        template, kind = settings["chat_template"], draw.integers(8)
        if kind < 3:
            written["tokenizer.json"] = damaged_json(fields, draw)
        elif kind == 3:
            charsmap = damaged_bytes(
                int(draw.choice([4, 256, 2**31])).to_bytes(4, "little") + draw.bytes(264), draw
            )
            written["tokenizer.json"] = fields | {
                "normalizer": {
                    "type": "Precompiled",
                    "precompiled_charsmap": base64.b64encode(charsmap).decode(),
                }
            }
        elif kind == 4:
            normaliser = damaged_json(NORMALISERS[draw.integers(len(NORMALISERS))], draw)
            written["tokenizer.json"] = fields | {"normalizer": normaliser}
        elif kind == 5:
            written["tokenizer_config.json"] = damaged_json(general, draw)
        elif kind == 6:
            written["config.json"] = damaged_json(config, draw)
        else:
            template = damaged_bytes(template.encode(), draw).decode("utf-8", "replace")
            if draw.random() < 0.15:
                template = TEMPLATES[draw.integers(len(TEMPLATES))]
        for name, value in written.items():
            content = json.dumps(value).encode()
            if draw.random() < 0.03:
                content = damaged_bytes(content, draw)
            (root / name).write_bytes(content)
        (root / "chat_template.jinja").write_text(template, "utf-8")
        yield root


def use(directory: pathlib.Path) -> None:
    """All that commands do with a tokenizer."""
    refusals = []
    for kind in ("chat", "plain"):
        try:
            chat = ChatModel(directory, CONFIG, kind)
            prompt = chat.prompt("What is 12 + 30?", "Answer.", "question 1")
            chat.decode([*prompt.tokens, 0, 895])
            assert isinstance(chat.stop_tokens, frozenset)
        except InputError as error:
            refusals.append(str(error))
    try:
        tokenise([Text("12 +", " 30 = 42", 1)], directory, CONFIG, "t")
    except InputError as error:
        refusals.append(str(error))
    if refusals:
        raise InputError(max(refusals, key=len))


@pytest.mark.parametrize(
    "count", [100, pytest.param(1000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_damaged_tokenizers(
    count: int, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizers, "LOAD_SECONDS", 1.5)
    monkeypatch.setattr(tokenizers, "CALL_SECONDS", 0.5)
    monkeypatch.setattr(tokenizers, "MOST_MEMORY", 1 << 30)
    # Of computing; others may compute too, and each of several uses may start the process again.
    limits = Limits(60.0)
    draw = np.random.default_rng(27)
    tried = folders(tmp_path / "model", draw)
    for number in range(count):
        limits.attempt(number, functools.partial(use, next(tried)))
    assert count / 5 < limits.refusals < count


def question_files(root: pathlib.Path) -> list[tuple[pathlib.Path, Callable[[], object]]]:
    """Good files, and what reads them."""
    plain = {"question": "q", "answer": "#### 1"}
    records = {
        "gsm8k": [plain] * 3,
        "questions": [{"question": f"q{i}", "answer": i} for i in range(3)],
        "math500": [MATH500 | {"unique_id": f"{i}"} for i in range(3)],
        "commonsenseqa": [COMMONSENSE | {"id": f"{i}"} for i in range(3)],
    }
    found: list[tuple[pathlib.Path, Callable[[], object]]] = []
    for name, rows in records.items():
        path = write_jsonl(root / f"{name}.jsonl", rows)
        found.append((path, lambda name=name, path=path: read_benchmark(name, path)))
    gpqa = write_csv(root / "gpqa.csv", [GPQA_HEADER, *gpqa_records(3)])
    mmlu = write_csv(root / "x_dev.csv", [["q,\n", "a", "b", "c", '"d"', "A"]] * 3)
    found.append((gpqa, lambda: read_benchmark("gpqa", gpqa)))
    found.append((mmlu, lambda: read_benchmark("mmlu", mmlu)))
    for name, rows in (
        ("text", [{"text": "a"}, {"prompt": "p", "completion": "c"}]),
        ("prompts", [{"prompt": "a"}, {"question": "b"}]),
    ):
        path = write_jsonl(root / f"{name}.jsonl", rows)
        read: Callable[..., object] = read_texts if name == "text" else read_prompts
        found.append((path, lambda read=read, path=path: read(path)))
    return found


@pytest.mark.parametrize(
    "count", [1000, pytest.param(20_000, marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_damaged_question_files(count: int, tmp_path: pathlib.Path) -> None:
    files = [(path, path.read_bytes(), read) for path, read in question_files(tmp_path)]
    for _, _, read in files:
        read()
    limits, draw = Limits(5.0), np.random.default_rng(28)
    for number in range(count):
        path, content, read = files[number % len(files)]
        if path.suffix == ".jsonl" and draw.random() < 0.5:
            rows = [damaged_json(json.loads(line), draw) for line in content.splitlines()]
            damaged = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        else:
            damaged = content
        if damaged == content or draw.random() < 0.3:
            damaged = damaged_bytes(damaged, draw)
        path.write_bytes(damaged)
        limits.attempt((path.name, number), read)
    assert count / 3 < limits.refusals < count
