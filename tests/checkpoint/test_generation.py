"""What config.json and generation_config.json say of the end of an answer and of penalties."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import pytest

from svdjax.checkpoint.generation import end_tokens, generation_settings
from svdjax.errors import InputError


def write(folder: pathlib.Path, name: str, **content: Any) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def test_of_both_files(tmp_path: pathlib.Path) -> None:
    assert end_tokens(tmp_path) == set()
    write(tmp_path, "config.json", eos_token_id=3)
    assert end_tokens(tmp_path) == {3}
    write(tmp_path, "generation_config.json", eos_token_id=[7, 3, -1], repetition_penalty=1.5)
    assert end_tokens(tmp_path) == {3, 7}
    write(tmp_path, "config.json", eos_token_id=None)
    assert end_tokens(tmp_path) == {3, 7}
    names = ("repetition_penalty", "no_repeat_ngram_size")
    assert generation_settings(tmp_path, names) == {"repetition_penalty": 1.5}


@pytest.mark.parametrize(
    "eos",
    ["x", 1.5, True, {}, [[]], [{"a": 1}], [None], 10**30, [10**30], list(range(2000)), [1e400]],
    ids=lambda eos: str(eos)[:20],
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_what_is_no_token(tmp_path: pathlib.Path, name: str, eos: Any) -> None:
    write(tmp_path, name, eos_token_id=eos)
    with pytest.raises(InputError, match=r"eos_token_id: .*expected") as caught:
        end_tokens(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"eos_token_id": ' + "[" * 900 + "]" * 900 + "}", "{" * 99_999, "\xff"],
    ids=lambda content: content[:20],
)
def test_files_that_are_broken_are_told(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_bytes(content.encode("latin-1"))
    for read in (end_tokens, lambda home: generation_settings(home, ["repetition_penalty"])):
        with pytest.raises(InputError, match=r"generation_config\.json: "):
            read(tmp_path)


def test_penalties_are_numbers(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "generation_config.json", repetition_penalty=[1.0])
    with pytest.raises(InputError, match=r"repetition_penalty: expected a number, found \[1.0\]"):
        generation_settings(tmp_path, ["repetition_penalty"])


def test_only_files_inside(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "outside.json", eos_token_id=1)
    home = tmp_path / "home"
    home.mkdir()
    (home / "generation_config.json").symlink_to("../outside.json")
    with pytest.raises(InputError, match="outside its directory"):
        end_tokens(home)
    (home / "generation_config.json").unlink()
    os.mkfifo(home / "generation_config.json")
    with pytest.raises(InputError, match="not a regular file"):
        end_tokens(home)
