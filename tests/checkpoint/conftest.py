"""Pairs of tiny checkpoints with their plans, and what an entry of a cache takes."""

from __future__ import annotations

import pytest

from svdjax.checkpoint.cache import ArrayCache
from tests.checkpoint.cache_harness import ROOMY, entry, write
from tests.support import held
from tests.support.held import plan_of


@pytest.fixture
def dense(tmp_path):
    config, tensors = held.model()
    base = held.write(tmp_path / "base", config, tensors)
    post = held.write(tmp_path / "post", config, held.moved(tensors))
    return config, base, post, plan_of(base, post)


@pytest.fixture
def mixture(tmp_path):
    config, tensors = held.model("qwen3")
    config |= {"model_type": "qwen3_moe", "num_experts": 4, "moe_intermediate_size": 12}
    tensors = held.experts(tensors, 4, 12)
    base = held.write(tmp_path / "base", config, tensors)
    post = held.write(tmp_path / "post", config, held.moved(tensors))
    return config, base, post, plan_of(base, post)


@pytest.fixture(scope="module")
def entry_bytes(tmp_path_factory) -> int:
    """Bytes on disk of one entry of a cache."""
    cache = ArrayCache(tmp_path_factory.mktemp("size"), ROOMY)
    assert write(cache, 0)
    assert cache.used_bytes > sum(array.nbytes for array in entry(0).values())
    return cache.used_bytes
