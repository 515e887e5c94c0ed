"""A dry run tells of the plan that the sweep then executes."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest

from svdjax.engine import inputs
from svdjax.engine.cost import Rates
from svdjax.options import default_config
from svdjax.spectra.plan import plan_spectra
from svdjax.sweep.config import read_config
from svdjax.sweep.dry_run import dry_run
from svdjax.sweep.plan import plan_sweep
from svdjax.sweep.run import run_sweep
from tests.support.novel import family
from tests.sweep import harness

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
    state = json.loads((tmp_path / "W" / "sweep.json").read_text())
    executed = {name: pair["groups"] for name, pair in state["stages"]["spectra"]["pairs"].items()}
    parts = re.split(r"^(\w+): .* -> .*$", text, flags=re.MULTILINE)
    printed = {
        name: sum(int(row.split()[3]) for row in re.findall(r"^  layers\..*", rows, re.MULTILINE))
        for name, rows in zip(parts[1::2], parts[2::2])
    }
    assert printed == executed
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


def test_it_says_how_much_fills_groups_up(config, tmp_path):
    line = "of the computing fills groups up: all of a projection have one length, a multiple of"
    assert line not in dry_run(config)
    models = family(tmp_path, ("post",), layers=3, width=WIDTH)
    sides = {"pair": {"base": str(models / "base"), "post": str(models / "post")}}
    odd = default_config("x", sides, stages=("spectra",), devices=2)
    assert f"25.0% {line} the 2 devices" in dry_run(odd)
    base, post = harness.square_pair(tmp_path)
    sides = {"pair": {"base": str(base), "post": str(post)}}
    assert line not in dry_run(default_config("x", sides, stages=("spectra",), devices=2))


def test_times_of_the_stages_add_up_to_the_whole(config):
    plan = plan_sweep(read_config(config))
    forecasts = plan.forecasts(Rates("imagined", 1e9, {16: 0.001}), 0.5)
    assert list(forecasts) == ["start", "validate", "spectra"]
    assert forecasts["spectra"].programs == len(plan.spectra.programs(plan.spectra.groups)) == 4
    assert forecasts["spectra"].seconds == pytest.approx(
        plan.spectra.seconds(plan.spectra.groups, Rates("imagined", 2e9, {16: 0.0005}))
    )
    text = dry_run(config)
    assert re.search(r"and about \d+ s more to compile 4 programs the first time", text)
    assert re.search(r"^of that start \d+ s, validate .*, spectra ", text, re.MULTILINE)


def test_what_is_left_of_a_sweep_is_cut_as_the_whole_was(config, tmp_path):
    workdir = tmp_path / "W"
    first = run_sweep(config, workdir)
    stored = harness.spectra(workdir, "three")
    (workdir / "three" / "spectra.npz").unlink()
    again = run_sweep(config, workdir)
    assert again.computed == first.computed // len(POSTS)
    for name, values in harness.spectra(workdir, "three").items():
        np.testing.assert_array_equal(values, stored[name], err_msg=name)


def test_a_shared_base_is_work_of_the_first_pair_alone(config):
    sweep = read_config(config)
    jobs = inputs.open_pairs(sweep.pairs, split_fused=False)
    groups = plan_spectra(jobs, sweep.settings, 2).groups
    first, *rest = ([g for g in groups if g.pair == post] for post in POSTS)
    for others in rest:
        for base, other in zip(first, others, strict=True):
            assert other.place == base.place
            assert other.read * 2 == base.read
            assert base.work / 2 < other.work < base.work
