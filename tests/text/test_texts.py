"""Reading held-out text: both forms, tokens and weights, and everything that is refused."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

from svdjax import reference
from svdjax.checkpoint import model_config
from svdjax.errors import InputError
from svdjax.evaluate.benchmarks import read_benchmark
from svdjax.text import lines
from svdjax.text.prompts import read_prompts
from svdjax.text.texts import Text, read_texts, tokenise

INSTRUCT = reference.path("instruct")
CONFIG = model_config(INSTRUCT)
benchmark = functools.partial(read_benchmark, "questions")


def refusal(call, *words) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value), caught.value


def test_both_forms(tmp_path):
    path = tmp_path / "t.jsonl"
    lines = ['{"text": "a\\u2028b"}', "", '{"prompt": "p", "completion": "c", "id": 1}']
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read_texts(path) == (Text("", "a\u2028b", 1), Text("p", "c", 3))
    assert read_texts(path, 1) == (Text("", "a\u2028b", 1),)
    plain = tmp_path / "t.txt"
    plain.write_text("one line\r\n\n  two \n", newline="")
    assert [text.completion for text in read_texts(plain)] == ["one line", "  two "]


def test_a_limit_spares_what_lies_beyond(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{')
    assert len(read_texts(path, 2)) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["holds no text"]),
        (b"\n \n", ["holds no text"]),
        (b'{"text": "a"}\n{', ["line 2", "not valid JSON", '"completion"']),
        (b"[1]", ["line 1", "found list"]),
        (b'{"txt": "a"}', ["line 1", "found txt"]),
        (b"{}", ["line 1", "found no key"]),
        (b'{"prompt": "a"}', ["line 1", "found prompt"]),
        (b'{"text": "a", "prompt": "b", "completion": "c"}', ["line 1", "text, prompt"]),
        (b'{"text": 3}', ["line 1", "found int as text"]),
        (b'{"prompt": "a", "completion": null}', ["found NoneType as completion"]),
        (b'{"text": "\\ud800"}', ["line 1", "text holds half a surrogate pair"]),
        (b'\n{"text": "\xe4"}', ["line 2", "not UTF-8"]),
        ('{"text": "a"}'.encode("utf-16"), ["line 1", "not UTF-8"]),
        (b"[" * 100_000, ["not valid JSON"]),
        (b'{"text": ' + b"9" * 10_000 + b"}", ["not valid JSON"]),
    ],
)
def test_wrong_files(content, words, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    refusal(lambda: read_texts(path), str(path), *words)


def test_missing_files_folders_and_pipes(tmp_path):
    refusal(lambda: read_texts(tmp_path / "none.txt"), "none.txt", "no such file")
    refusal(lambda: read_texts(tmp_path), "is not a regular file")
    os.mkfifo(tmp_path / "pipe.txt")
    refusal(lambda: read_texts(tmp_path / "pipe.txt"), "is not a regular file")
    refusal(lambda: read_texts("~nobody-of-this-name/t.txt"), "home directory")


def test_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MOST_BYTES", 1 << 20)
    path = tmp_path / "t.txt"
    path.write_bytes(b"a" * (1 << 20))
    assert len(read_texts(path)) == 1
    path.write_bytes(b"a" * ((1 << 20) + 1))
    refusal(lambda: read_texts(path), "t.txt", "more than 1 MiB", "smaller files", "limit")
    path.write_bytes(b"a\n" * (1 << 19) + b"b")
    refusal(lambda: read_texts(path), "t.txt", "more than 1 MiB")
    assert len(read_texts(path, 3)) == 3
    monkeypatch.setattr(lines, "MOST_LINE_BYTES", 1 << 10)
    path.write_bytes(b"b\n" + b"a" * 1024 + b"\n")
    refusal(lambda: read_texts(path), "t.txt, line 2", "longer than", "a text a line")


@pytest.mark.parametrize(
    ("read", "word"),
    [(read_texts, "text"), (read_prompts, "prompt"), (benchmark, "question")],
    ids=["texts", "prompts", "questions"],
)
def test_large_files_are_streamed(read, word, tmp_path):
    """250 MB of one line, of short lines and of nothing end soon, in bounded memory."""
    path = tmp_path / "t.jsonl"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    with path.open("wb") as file:
        file.truncate(250 << 20)
    refusal(lambda: read(path), "line 1", "longer than 16 MiB", word)
    path.write_bytes(b"\n" * (250 << 20))
    refusal(lambda: read(path), "more than 1048576 lines")
    line = b'{"text": "a"}\n' if read is read_texts else b'{"question": "a", "answer": 1}\n'
    path.write_bytes(line * (2 << 20))
    assert len(read(path, limit=10)) == 10
    path.unlink()
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 << 10


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"PAR1" + bytes(99), "a Parquet file"),
        (gzip.compress(b"{}", mtime=0), "compressed by gzip"),
    ],
    ids=["parquet", "gzip"],
)
def test_other_formats_are_named(content, name, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    for read in (read_texts, read_prompts):
        refusal(functools.partial(read, path), f"t.jsonl: is {name}; convert it", "expected")
    refusal(functools.partial(benchmark, path), f"t.jsonl: is {name}")


def loaded(directory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def test_tokens_and_weights():
    rows = tokenise((Text("2+3", "=5", 1), Text("", "2+3=5", 2)), INSTRUCT, CONFIG, "here")
    tokenizer = loaded(INSTRUCT)
    assert [tokenizer.decode(list(row)) for row in rows.tokens] == ["2+3=5", "2+3=5"]
    head, tail = (len(tokenizer(part)["input_ids"]) for part in ("2+3", "=5"))
    assert rows.weights[0].tolist() == [0.0] * (head - 1) + [1.0] * tail
    # This tokenizer has no bos token: nothing predicts the first token.
    assert tokenizer.bos_token_id is None
    assert rows.weights[1].tolist() == [1.0] * 4
    assert rows.targets == tail + 4
    assert {row.dtype for row in rows.tokens} == {np.dtype(np.int32)}
    assert {row.dtype for row in rows.weights} == {np.dtype(np.float32)}
    alone = (Text("", "2", 4),)
    refusal(lambda: tokenise(alone, INSTRUCT, CONFIG, "t"), "t, line 4", "1 token", "at least 2")


def test_a_bos_token_makes_the_first_token_count(tmp_path):
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(INSTRUCT / name, tmp_path)
    fields = json.loads((INSTRUCT / "tokenizer_config.json").read_text("utf-8"))
    fields["bos_token"] = "<|endoftext|>"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(fields))
    given = (Text("", "2+3", 1), Text("", "2", 2), Text("2", "+3", 3))
    rows = tokenise(given, tmp_path, CONFIG, "t")
    bos = loaded(tmp_path).bos_token_id
    assert [row[0] == bos for row in rows.tokens] == [True, True, False]
    assert [row.tolist() for row in rows.weights] == [[1.0] * 3, [1.0], [1.0] * 2]


def test_what_the_model_cannot_read(tmp_path):
    long = (Text("", "12 " * 2000, 7),)
    refusal(lambda: tokenise(long, INSTRUCT, CONFIG, "t"), "t, line 7", "6000", "at most 512")
    empty = (Text("prompt", "", 3),)
    refusal(lambda: tokenise(empty, INSTRUCT, CONFIG, "t"), "t, line 3", "none of them")
    small = dataclasses.replace(CONFIG, vocab_size=5)
    refusal(lambda: tokenise((Text("", "12", 1),), INSTRUCT, small, "t"), "outside the vocabulary")


def test_tokenizers_that_cannot_be_had(tmp_path):
    some = (Text("", "a", 1),)
    refusal(lambda: tokenise(some, tmp_path, CONFIG, "t"), str(tmp_path), "has no tokenizer")
    # transformers makes an empty tokenizer out of a configuration alone.
    shutil.copy(INSTRUCT / "config.json", tmp_path)
    refusal(lambda: tokenise(some, tmp_path, CONFIG, "t"), "has no tokenizer", "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{")
    refusal(lambda: tokenise(some, tmp_path, CONFIG, "t"), "has no tokenizer that can be read")
    refusal(lambda: tokenise(some, "gpt2", CONFIG, "t"), "gpt2: is not a directory")


def test_it_is_quiet_and_needs_no_network(tmp_path):
    # Python runs this first, in the tokenizer's process too.
    (tmp_path / "sitecustomize.py").write_text(
        f"""
import pathlib, socket
def refuse(*_, **__):
    pathlib.Path({str(tmp_path / "asked")!r}).touch()
    raise SystemExit("network!")
socket.socket.connect = socket.getaddrinfo = refuse
"""
    )
    code = f"""
from svdjax.text.texts import Text, tokenise
from svdjax.checkpoint import model_config
config = model_config({str(INSTRUCT)!r})
try:
    tokenise([Text("", "12 " * 2000, 1)], {str(INSTRUCT)!r}, config, "t")
except ValueError as error:
    assert "at most 512" in str(error)
"""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "asked").exists()
