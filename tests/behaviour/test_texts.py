"""Reading held-out text: both forms, and everything that is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from svdjax import reference
from svdjax.behaviour import Text, read_texts, tokenise
from svdjax.checkpoint import model_config
from svdjax.errors import InputError
from svdjax.reference import texts

INSTRUCT = reference.path("instruct")
CONFIG = model_config(INSTRUCT)


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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["holds no text"]),
        (b"\n \n", ["holds no text"]),
        (b'{"text": "a"}\n{', ["line 2", "not valid JSON"]),
        (b"[1]", ["line 1", "found list"]),
        (b'{"txt": "a"}', ["line 1", "found txt"]),
        (b'{"prompt": "a"}', ["line 1", "found prompt"]),
        (b'{"text": 3}', ["line 1", "other types"]),
        (b'{"prompt": "a", "completion": null}', ["other types"]),
        ('{"text": "ä"}'.encode("latin-1"), ["not UTF-8"]),
        (b"[" * 100_000, ["not valid JSON"]),
    ],
)
def test_wrong_files(content, words, tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    refusal(lambda: read_texts(path), str(path), *words)


def test_missing_files_and_folders(tmp_path):
    refusal(lambda: read_texts(tmp_path / "none.txt"), "none.txt", "No such file")
    refusal(lambda: read_texts(tmp_path), "directory")


def test_tokens_and_weights():
    rows = tokenise((Text("2+3", "=5", 1), Text("", "2+3=5", 2)), INSTRUCT, CONFIG, "here")
    first, second = rows.tokens
    assert rows.weights[0].sum() == len(first) - 1 - np.sum(rows.weights[0] == 0)
    assert np.all(np.diff(rows.weights[0]) >= 0)  # the prompt, then what counts
    assert rows.weights[0][-1] == 1
    # A text of its own has the bos token in front, and counts from its first token on.
    assert np.all(rows.weights[1] == 1)
    assert len(second) == len(rows.weights[1]) + 1
    assert rows.targets == rows.weights[0].sum() + rows.weights[1].sum()


def test_what_the_model_cannot_read(tmp_path):
    long = (Text("", "12 " * 2000, 7),)
    refusal(lambda: tokenise(long, INSTRUCT, CONFIG, "t"), "t, line 7", "at most 512")
    empty = (Text("prompt", "", 3),)
    refusal(lambda: tokenise(empty, INSTRUCT, CONFIG, "t"), "t, line 3")
    refusal(lambda: tokenise((Text("", "a", 1),), tmp_path, CONFIG, "t"), "has no tokenizer")
    import dataclasses

    small = dataclasses.replace(CONFIG, vocab_size=5)
    refusal(lambda: tokenise((Text("", "12", 1),), INSTRUCT, small, "t"), "outside the vocabulary")


@pytest.mark.parametrize("name", ["instruct", "reasoning"])
def test_the_shipped_texts_are_what_the_generator_makes(name, tmp_path):
    lines = reference.text_path(name).read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == texts.records(name)
    assert len(lines) == 90
    texts.write(tmp_path)
    path = tmp_path / reference.text_path(name).name
    assert path.read_bytes() == reference.text_path(name).read_bytes()


def test_other_members_have_no_text():
    refusal(lambda: reference.text_path("base"), "'base'", "instruct or reasoning")
