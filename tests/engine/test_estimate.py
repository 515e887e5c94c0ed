"""A dry run tells of the plan that the sweep then executes."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from svdjax.engine import inputs
from svdjax.options import default_config
from svdjax.spectra.stage import plan_spectra
from svdjax.sweep.config import read_config
from svdjax.sweep.dry_run import dry_run
from svdjax.sweep.run import run_sweep
from tests.engine.hosts.models import family

POSTS = ("one", "two", "three")
LAYERS, WIDTH = 4, 16


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Any:
    """A base with three posts, in groups of a layer for each device."""
    models = family(tmp_path_factory.mktemp("models"), POSTS, layers=LAYERS, width=WIDTH)
    sides = {post: {"base": str(models / "base"), "post": str(models / post)} for post in POSTS}
    leaves: Any = {"group_bytes": 16 * 3 * WIDTH * WIDTH * 4}
    return default_config("x", sides, stages=("spectra",), devices=2, **leaves)


def test_it_cuts_and_reads_what_the_sweep_cuts_and_reads(config, tmp_path):
    text = dry_run(config)
    told = re.search(r"(\d+) groups read ([\d.]+) KiB, shared matrices once", text)
    assert told
    assert int(told[1]) == run_sweep(config, tmp_path / "W").computed
    sweep = read_config(config)
    jobs = inputs.open_pairs(sweep.pairs, split_fused=False)
    files = {side.path: side for job in jobs for side in (job.plan.base, job.plan.post)}
    analysed = {name for job in jobs for one in job.plan.projections for name in one.tensors}
    # Base once, however many posts it has.
    read = sum(
        side.spec(name).dtype.itemsize * math.prod(side.spec(name).shape)
        for side in files.values()
        for name in analysed
    )
    assert float(told[2]) == pytest.approx(read / 1024, abs=0.05)
    # Each pair's row tells how many groups are its own.
    rows = [line.split() for line in text.splitlines() if re.match(r"  layers\.", line)]
    assert sum(int(row[3]) for row in rows) == int(told[1])


def test_a_shared_base_is_work_of_the_first_pair_alone(config):
    sweep = read_config(config)
    jobs = inputs.open_pairs(sweep.pairs, split_fused=False)
    groups = plan_spectra(jobs, sweep.settings, 2)
    first, *rest = ([g for g in groups if g.pair == post] for post in POSTS)
    for others in rest:
        for base, other in zip(first, others, strict=True):
            assert other.place == base.place
            assert other.read * 2 == base.read
            assert base.work / 2 < other.work < base.work
