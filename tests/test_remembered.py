"""What is kept between processes, and everything that may be wrong with it."""

from __future__ import annotations

import pytest

from svdjax import config_cache


@pytest.fixture
def folder(tmp_path):
    config_cache.keep_in(tmp_path)
    yield tmp_path
    config_cache.keep_in(None)


VALUE = {"a": [1, None, 0.1], "b": {"c": True}}


def test_what_is_kept_is_recalled(folder):
    assert config_cache.active()
    name = config_cache.digest_of({"x": 1}, b"source")
    assert config_cache.recall(name) is None
    config_cache.keep(name, VALUE)
    assert config_cache.recall(name) == VALUE
    assert [path.name for path in folder.iterdir()] == [f"{name}.json"]


def test_nothing_is_kept_unless_somebody_says_where():
    assert not config_cache.active()
    name = config_cache.digest_of("nowhere")
    config_cache.keep(name, VALUE)
    assert config_cache.recall(name) is None


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b" " * (config_cache._LARGEST + 1)]
)
def test_a_damaged_entry_is_none(folder, content):
    (folder / "x.json").write_bytes(content)
    assert config_cache.recall("x") is None
    config_cache.keep("x", VALUE)
    assert config_cache.recall("x") == VALUE


def test_a_folder_that_takes_nothing_is_no_reason_to_stop(tmp_path):
    config_cache.keep_in(tmp_path / "not" / "there")
    try:
        config_cache.keep("x", VALUE)
        assert config_cache.recall("x") is None
    finally:
        config_cache.keep_in(None)
    assert not list(tmp_path.iterdir())


def test_names_tell_everything_apart():
    names = {
        config_cache.digest_of(*depends)
        for depends in (("a", "b"), ("ab",), ("a", b"b"), ({"k": 1},), ({"k": 1.5},), ("b", "a"))
    }
    assert len(names) == 6
    assert config_cache.digest_of({"a": 1, "b": 2}) == config_cache.digest_of({"b": 2, "a": 1})
    with pytest.raises(TypeError):
        config_cache.digest_of(object())
