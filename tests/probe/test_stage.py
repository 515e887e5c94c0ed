"""The probes stage, in this process and by workers, on the shipped family."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil

import pytest

from svdjax import reference
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError, Interrupted
from svdjax.options import default_config
from svdjax.probe.page import probe_section
from svdjax.probe.results import ProbeResults
from svdjax.report.numbers import percent
from svdjax.sweep.config import SweepConfig, read_config
from svdjax.sweep.run import run_sweep
from tests.support.schemas import check_files
from tests.support.workers import ThreadWorkers

PAIRS = ("instruct", "reasoning")


def config() -> SweepConfig:
    """Pairs of one base; of the first a constructed model that no stage judges."""
    base = str(reference.path("base"))
    sweep = read_config(
        default_config(
            "probes",
            {post: {"base": base, "post": str(reference.path(post))} for post in PAIRS},
            stages=("spectra", "probes"),
            variants=("restoration_V_SA",),
            measure="vectors",
            probes={"prompts": str(reference.heldout_path()), "limit": 2, "linearised": True},
            devices=1,
        )
    )
    specs = tuple(
        dataclasses.replace(spec, constructed=spec.name == PAIRS[0]) for spec in sweep.pairs
    )
    return dataclasses.replace(sweep, pairs=specs)


class StopAfter(StopRequest):
    """Stops a sweep once workers have probed so many models."""

    def __init__(self, models: int):
        super().__init__()
        self.left = models

    def check(self, done: str = "") -> None:
        if done.startswith("probes: "):
            self.left -= 1
            if self.left < 0:
                raise Interrupted(done, 15)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The workdir of a sweep by this process, and what it said."""
    workdir, said = tmp_path_factory.mktemp("probes") / "here", io.StringIO()
    with contextlib.redirect_stderr(said):
        run_sweep(config(), workdir)
    return workdir, said.getvalue()


def test_workers_probe_the_same_and_this_process_goes_on(here, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("svdjax.engine.work.ray.RayWorkers", ThreadWorkers)
    (alone, said), spread = here, tmp_path / "spread"
    assert said.count(" prompt(s)") == 6
    assert "probed 1/3 reasoning base already" in said
    with pytest.raises(Interrupted):
        run_sweep(config(), spread, workers="ray", stop=StopAfter(2))
    assert len(list((spread / ".probes").glob("*.npz"))) == 2
    run_sweep(config(), spread)
    assert capsys.readouterr().err.count(" prompt(s)") == 6
    for pair in PAIRS:
        for file in ("probes.json", "entropy.npz", "cka.npz", "maps.npz", "linearised.npz"):
            assert (spread / pair / file).read_bytes() == (alone / pair / file).read_bytes()


def test_a_linearised_pair_has_a_table(here, tmp_path):
    workdir, _ = here
    results = ProbeResults.load(workdir / "reasoning")
    section = probe_section(results, tmp_path)
    assert section.files == ["probes", "linearised"]
    (table,) = (each for each in section.tables if each.title == "First order in the weights")
    shown = {row[0]: row[1] for row in table.rows}
    assert {"all", "0.25 × all", "self_attn", "mlp", "other", "q_proj"} <= set(shown)
    whole = results.first_order()[0]
    assert shown["all"] == percent(whole["share"])
    assert any("First order in the weights" in sentence for _, sentence in section.findings)
    assert check_files(workdir) >= {"probes"}
    # What was asked for and is gone is damage.
    damaged = tmp_path / "damaged"
    shutil.copytree(workdir / "reasoning", damaged)
    (damaged / "linearised.npz").unlink()
    with pytest.raises(InputError):
        ProbeResults.load(damaged)


def test_a_pair_that_is_not_one_function_of_its_weights_has_a_note(tmp_path):
    base = tmp_path / "base"
    shutil.copytree(reference.path("base"), base)
    raw = json.loads((base / "config.json").read_text("utf-8"))
    (base / "config.json").write_text(json.dumps(raw | {"rms_norm_eps": 1e-5}))
    sweep = config()
    specs = (dataclasses.replace(sweep.pairs[1], base=str(base)),)
    run_sweep(dataclasses.replace(sweep, pairs=specs), tmp_path / "out")
    results = ProbeResults.load(tmp_path / "out" / specs[0].name)
    assert not results.linearised
    assert not results.first_order()
    assert "base is not linearised towards post: rms_norm_eps" in results.notes[-1]
