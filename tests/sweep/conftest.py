"""What the tests of the engine share: tiny models."""

from __future__ import annotations

import pathlib

import pytest

from tests.sweep import harness


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory):
    """Makes (once) two tiny checkpoints of a family and returns their directories."""
    made: dict[str, tuple[pathlib.Path, pathlib.Path]] = {}

    def make(family: str) -> tuple[pathlib.Path, pathlib.Path]:
        if family not in made:
            root = tmp_path_factory.mktemp(family)
            made[family] = harness.tiny_pair(root, family)
        return made[family]

    return make


@pytest.fixture(scope="session")
def square(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """Two tiny checkpoints whose matrices have one shape."""
    return harness.square_pair(tmp_path_factory.mktemp("square"))
