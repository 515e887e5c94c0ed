"""Variants are written and loaded once per session."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from tests.model.loading import Loaded, load_variant


@pytest.fixture(scope="session")
def variant(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    """`variant(name)`: a tiny checkpoint of tests/model/variants.py, loaded."""
    folder = tmp_path_factory.mktemp("variants")
    return functools.cache(lambda name: load_variant(name, folder))
