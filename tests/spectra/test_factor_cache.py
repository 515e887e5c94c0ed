"""What pairs have in common: read and factorised once, on the devices or on disk."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from typing import Any

import jax
import numpy as np
import pytest

from svdjax.checkpoint import open_checkpoint, plan_pair, read_stack
from svdjax.engine.groups import plan_groups, side_by_side
from svdjax.options import default_config
from svdjax.spectra import factor_cache as module
from svdjax.spectra.factor_cache import MOST, FactorCache
from svdjax.sweep.config import Settings
from svdjax.sweep.run import run_sweep
from tests.support.novel import family
from tests.sweep import harness

POSTS = ("one", "two", "three", "four")
PAIRS = list(itertools.combinations(("base", *POSTS), 2))
PLACES = 2 * 2
"""Two projections, groups of one layer of two."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return family(tmp_path_factory.mktemp("models"), POSTS, layers=2, width=16)


def sweep(models, workdir, pairs, **leaves: Any) -> Any:
    sides = {f"{b}-{p}": {"base": str(models / b), "post": str(models / p)} for b, p in pairs}
    # One layer a group, on one device.
    leaves = {"group_bytes": 1, "devices": 1, "measure": "vectors", **leaves}
    return run_sweep(default_config("x", sides, stages=("spectra",), **leaves), workdir)


@pytest.fixture
def made(monkeypatch):
    """Every stack of which something was made before the comparison."""
    found = []

    def spy(stack: Any, **how: Any) -> Any:
        found.append(stack)
        return prepare_stack(stack, **how)

    prepare_stack = module.prepare_stack
    monkeypatch.setattr(module, "prepare_stack", spy)
    return found


@pytest.mark.parametrize("disk", [0, 2**30])
def test_a_base_and_its_posts_touch_no_disk(disk, models, tmp_path, made):
    cache = tmp_path / "cache"
    pairs = [("base", post) for post in POSTS]
    leaves = {"factor_cache_bytes": disk} | ({} if disk else {"factor_cache": str(cache)})
    outcome = sweep(models, tmp_path / "W", pairs, **leaves)
    # What is known of a long post is made within the comparison.
    assert len(made) == PLACES // 2 + PLACES // 2 * (1 + len(POSTS))
    assert not cache.exists()
    assert outcome.computed == PLACES * len(POSTS)


def test_more_checkpoints_than_stay_on_the_devices_go_by_the_disk(
    models, tmp_path, made, monkeypatch
):
    assert len(POSTS) + 1 > MOST + 1
    written = []
    write = module.ArrayCache.write

    def spy(cache: Any, key: str, arrays: Any) -> bool:
        written.append(key)
        return write(cache, key, arrays)

    monkeypatch.setattr(module.ArrayCache, "write", spy)
    sweep(models, tmp_path / "all", PAIRS)
    assert len(made) == PLACES * (1 + len(POSTS)), "something was computed twice"
    assert len(written) == len(set(written)) > 0
    assert not (tmp_path / "all" / ".kept").exists()
    for pair in PAIRS:
        name = "-".join(pair)
        sweep(models, tmp_path / name, [pair])
        alone = harness.spectra(tmp_path / name, name)
        for key, value in harness.spectra(tmp_path / "all", name).items():
            # Two programs round differently, and condition numbers are about 10.
            np.testing.assert_allclose(value, alone[key], rtol=0, atol=1e-11, err_msg=key)


def test_without_disk_what_does_not_stay_is_computed_again(models, tmp_path, made):
    sweep(models, tmp_path / "W", PAIRS, factor_cache_bytes=0)
    assert len(made) > PLACES * (1 + len(POSTS))
    assert harness.leftovers(tmp_path / "W") == []


def test_a_side_stays_as_long_as_it_is_needed(models, tmp_path):
    base = open_checkpoint(models / "base")
    plans = {post: plan_pair(base, open_checkpoint(models / post)) for post in POSTS}
    groups = side_by_side(
        [g for post in POSTS for g in plan_groups(post, plans[post], group_bytes=1, devices=1)]
    )
    assert [group.pair for group in groups] == list(POSTS) * PLACES
    assert len({group.place for group in groups[: len(POSTS)]}) == 1
    settings = dataclasses.replace(Settings(), factorisation="gram_f64")
    kept = FactorCache(settings, tmp_path / "unused", {str(base.path)})
    kept.expect(groups, plans)
    reads = []
    before = None
    for number, group in enumerate(groups):

        def read(group=group):
            reads.append(group.place)
            return read_stack(base, group.projection, group.start, group.stop)

        side = kept.side(base, group, read, jax.device_put)
        if number % len(POSTS):
            assert before is not None
            assert side is before()
        elif before is not None:
            assert before() is None, "still held after its last pair"
        before = weakref.ref(side)
        del side
    assert len(reads) == PLACES
    assert before is not None
    assert before() is None
    kept.close()
    assert not (tmp_path / "unused").exists()
