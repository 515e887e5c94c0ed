"""Variants are written and loaded once per session."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from tests.model.loading import Loaded, load_variant

# One of two layers has a window where some have one.
HALVED = {
    "qwen2_windows": {"max_window_layers": 1},
    "qwen3": {"max_window_layers": 1},
    "gemma3_text": {"sliding_window_pattern": 2},
}


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    """`variant(name)`: a tiny checkpoint of tests/model/variants.py, loaded."""
    folder = tmp_path_factory.mktemp("variants")
    return functools.cache(lambda name: load_variant(name, folder))


@pytest.fixture(scope="session")
def shallow(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    """`shallow(name)`: the same with two layers, for generation, which compiles them one by one."""
    folder = tmp_path_factory.mktemp("shallow")
    return functools.cache(
        lambda name: load_variant(name, folder, num_hidden_layers=2, **HALVED.get(name, {}))
    )
