"""A stage is added by one folder and one line of the registry."""

from __future__ import annotations

import json

import pytest

from svdjax.errors import InputError
from svdjax.options import default_config
from svdjax.sweep import pages
from svdjax.sweep.config import read_config
from svdjax.sweep.dry_run import dry_run
from svdjax.sweep.run import run_sweep
from svdjax.sweep.stages import REGISTRY, stages_of
from tests.report.pages import assert_self_contained
from tests.support import tiny


def test_a_stage_is_one_folder_and_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(REGISTRY, "trial", "tests.sweep.trial:TrialStage")
    base = tiny.make_checkpoint(tmp_path / "base", "llama")
    post = tiny.perturb(base, tmp_path / "post")
    sides = {"pair": {"base": str(base), "post": str(post)}}
    config = default_config("x", sides, stages=("spectra", "trial", "report"), devices=1)
    assert "trial: 1 pair(s) are counted" in dry_run(config)
    workdir = tmp_path / "W"
    done = run_sweep(config, workdir, pages)
    matrices = done.results["trial"]["pair"]["matrices"]
    assert matrices > 0
    _, head, row, _, files, last = done.summary().splitlines()
    assert head.endswith("  matrices")
    assert row.endswith(f"  {matrices}")
    assert files == "in the directory of each pair: summary.json, trial.json"
    assert last == f"report: {(workdir / 'report.html').as_uri()}"
    page = assert_self_contained(workdir / "report.html").text
    assert f"There are {matrices} matrices." in page
    assert f"{matrices} matrices." in page.replace(f"There are {matrices} matrices.", "")
    assert json.loads((workdir / "sweep.json").read_text())["stages"]["trial"]["status"] == "done"
    again = run_sweep(config, workdir, pages)
    assert again.was_finished
    assert again.results == done.results


def test_the_stages_there_are():
    names = ("spectra", *REGISTRY, "report")
    assert [stage.name for stage in stages_of(names)] == list(REGISTRY)
    config = default_config("x", {"a": {"base": "b", "post": "p"}}, stages=("spectra", "trail"))
    with pytest.raises(InputError, match="expected some of spectra, nulls, constructions, probes"):
        read_config(config)
