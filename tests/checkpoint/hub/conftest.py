"""A hub on loopback that has a checkpoint in one file and the same in three."""

from __future__ import annotations

from typing import Any

import pytest

from svdjax.checkpoint import ranges
from tests.support import hub_server, tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A checkpoint in one file, and the same in three."""
    root = tmp_path_factory.mktemp("models")
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 160}
    return {
        "single": tiny.make_checkpoint(root / "single", "qwen2", seed=1, **sizes),
        "sharded": tiny.make_checkpoint(root / "sharded", "qwen2", seed=1, shards=3, **sizes),
    }


@pytest.fixture
def server(models, tmp_path, monkeypatch):
    """A hub with both, that is asked again at once, for blocks smaller than the matrices."""
    monkeypatch.setattr(ranges, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(ranges, "_OPENING_PATIENCE", 0.2)
    monkeypatch.setattr(ranges, "_READING_PATIENCE", 0.2)
    monkeypatch.setattr(ranges, "BLOCK", 1 << 12)
    monkeypatch.setattr(ranges, "PIECE", 1 << 13)
    with hub_server.serving(tmp_path / "cache", monkeypatch) as server:
        for name, path in models.items():
            server.commit(f"org/{name}", path)
        yield server
