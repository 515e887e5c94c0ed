"""The probes stage, in this process and by workers, on the shipped family."""

from __future__ import annotations

import dataclasses

import pytest

from svdjax import reference
from svdjax.engine.signals import StopRequest
from svdjax.errors import Interrupted
from svdjax.options import default_config
from svdjax.sweep.config import SweepConfig, read_config
from svdjax.sweep.run import run_sweep
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


def test_workers_probe_the_same_and_this_process_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("svdjax.engine.work.ray.RayWorkers", ThreadWorkers)
    here, spread = tmp_path / "here", tmp_path / "spread"
    run_sweep(config(), here)
    said = capsys.readouterr().err
    assert said.count(" prompt(s)") == 6
    assert "probed 1/3 reasoning base already" in said
    with pytest.raises(Interrupted):
        run_sweep(config(), spread, workers="ray", stop=StopAfter(2))
    assert len(list((spread / ".probes").glob("*.npz"))) == 2
    run_sweep(config(), spread)
    assert capsys.readouterr().err.count(" prompt(s)") == 6
    for pair in PAIRS:
        for file in ("probes.json", "entropy.npz", "cka.npz", "maps.npz", "linearised.npz"):
            assert (spread / pair / file).read_bytes() == (here / pair / file).read_bytes()
