"""The sweep of a training run: pairs in the order of the steps, curves at the end, faults told."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from svdjax.sweep.run import run_sweep
from tests.support import tiny
from tests.support.adapters import make_adapter
from tests.sweep import harness
from tests.test_options import load

# All matrices of one shape: compiling is not what is tested.
SQUARE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}


class Report:
    """Stands in for the report: writes empty pages, remembers what it was told."""

    def __init__(self) -> None:
        self.pairs: list[str] = []
        self.trajectory: tuple[str, ...] = ()

    def write_report(
        self, workdir: pathlib.Path, comparisons: Any, *, trajectory: Any = (), **_: Any
    ) -> pathlib.Path:
        self.pairs, self.trajectory = list(comparisons), trajectory
        for folder in (workdir, *(workdir / pair for pair in comparisons)):
            (folder / "report.html").touch()
        return workdir / "report.html"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A base, and the adapters of steps 10 and 100 in a folder beside it."""
    root = tmp_path_factory.mktemp("run")
    base = tiny.make_checkpoint(root / "base", "llama", **SQUARE)
    for seed, name in enumerate(("checkpoint-10", "checkpoint-100")):
        make_adapter(root / "steps" / name, base, seed=seed)
    return root


def test_pairs_and_report_follow_the_steps(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    report = Report()
    config = load("trajectory").get_config(f"steps={run / 'steps'},base={run / 'base'}")
    done = run_sweep(config, tmp_path / "W", report)
    assert report.pairs == list(done.comparisons) == ["base-10", "base-100", "10-100"]
    assert report.trajectory == ("base", "10", "100")
    for one in done.comparisons.values():
        # The adapters change q and down alone.
        assert one["k_proj"].nf_max < 1e-12
        assert one["q_proj"].nf_min > 0.01


def test_mixed_shapes_are_one_line_and_status_2(tmp_path: pathlib.Path) -> None:
    for name in ("step-9", "step-10"):
        tiny.make_checkpoint(tmp_path / name, "llama", **SQUARE)
    wider: dict[str, Any] = SQUARE | {"hidden_size": 32, "intermediate_size": 24}
    tiny.make_checkpoint(tmp_path / "step-20", "llama", **wider)
    workdir = tmp_path / "W"
    done = harness.sweep_here(
        f"--config=configs/trajectory.py:steps={tmp_path}", f"--workdir={workdir}"
    )
    assert done.status == 2
    (line,) = done.err.splitlines()
    assert "pair 9-20: " in line
    assert "pair 10-20: " in line
    assert "no matrix of the same name and shape" in line
    assert str(tmp_path / "step-20") in line
    assert not workdir.exists()
