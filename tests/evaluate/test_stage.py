"""The evaluation stage as units of work: workers answer what one process does."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import pytest

from svdjax.engine import devices
from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.context import Context
from svdjax.engine.work.unit import Check, Here, Piece, Unit, Work, Workers
from svdjax.engine.work.worker import _Feed
from svdjax.errors import Interrupted
from svdjax.evaluate import evaluator, stage
from svdjax.evaluate.contract import EvaluationStage
from svdjax.sweep.config import read_config
from svdjax.sweep.plan import SweepPlan, plan_sweep
from tests.test_options import load

PAIRS = ("base-instruct", "base-reasoning")
# Only constructed models need the spectra, and there are none here.
COMPARISONS: Any = dict.fromkeys(PAIRS)


@pytest.fixture(scope="module")
def plan() -> SweepPlan:
    """Two pairs that share base; every model gives six answers, lots are of four at most."""
    config = load("reference").get_config("quick")
    with config.unlocked():
        config.pairs = {name: config.pairs[name] for name in PAIRS}
        config.stages = ("spectra", "evaluation")
        config.devices = 1
        config.evaluation.update(
            {"limit": 3, "repeats": 2, "batch_size": 1, "max_new_tokens": 24, "temperature": 1.5}
        )
    return plan_sweep(read_config(config))


def context(
    plan: SweepPlan,
    workdir: pathlib.Path,
    workers: Workers | None = None,
    check: Callable[[str], None] = lambda done: None,
) -> Context:
    return Context(
        workdir=workdir,
        settings=plan.sweep.settings,
        identity={"inputs": plan.digests(), "versions": devices.versions()},
        mesh=plan.mesh,
        entry={},
        save=lambda: None,
        check=check,
        workers=workers or Here(),
        compile_queue=CompileQueue(),
    )


class Fed:
    """A worker in this process, which is handed units as they come, the last ones first."""

    remote, count = True, 2

    def __init__(self, plan: SweepPlan, scratch: pathlib.Path):
        self.failed: dict[str, str] = {}
        self.units: list[Unit] = []
        self._plan, self._context = plan, context(plan, scratch)

    def do(
        self, work: Work, units: Sequence[Unit], check: Check, shared: Any = None
    ) -> Iterator[Piece]:
        prepared = self._plan.prepared["evaluation"]
        there = EvaluationStage().work(self._plan.jobs, shared, prepared, self._context)
        feed = _Feed(work.name, there)
        for unit in reversed(units):
            self.units.append(unit)
            result = feed.put(unit)
            assert result is not None
            values = result.result()
            for number, value in enumerate(values, 1):
                yield Piece(unit, value, number == len(values), 1 / len(values))
        feed.end()


def run(plan: SweepPlan, context: Context) -> None:
    EvaluationStage().run(plan.jobs, COMPARISONS, plan.prepared["evaluation"], context)


def files(workdir: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(workdir)): path.read_bytes()
        for pair in PAIRS
        for path in (workdir / pair).rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def here(plan: SweepPlan, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What one process leaves."""
    workdir = tmp_path_factory.mktemp("here")
    run(plan, context(plan, workdir))
    return workdir


def test_workers_leave_the_same_files(
    plan: SweepPlan,
    here: pathlib.Path,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    workers = Fed(plan, tmp_path / "scratch")
    with mock.patch.object(stage, "make_generator", wraps=stage.make_generator) as made:
        run(plan, context(plan, tmp_path / "W", workers))
    assert files(tmp_path / "W") == files(here)
    assert len(files(here)) == 2 * 3
    # Base is asked once, in lots of one size, and every model is put on the devices once.
    assert [len(unit.task.keys) for unit in workers.units] == [3] * 6
    assert made.call_count == 3
    told = [line.split(" (")[0] for line in capsys.readouterr().err.splitlines()]
    lines = [
        f"evaluated {n}/2 {pair} {name}" for pair in PAIRS for n, name in ((1, "post"), (2, "base"))
    ]
    assert sorted(told) == sorted(lines)
    assert not (tmp_path / "W" / ".evaluation").exists()


def test_workers_go_on_from_what_one_process_kept(
    plan: SweepPlan, here: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def check(done: str) -> None:
        if done == "2 of 6 answers kept":
            raise Interrupted(done)

    with mock.patch.object(evaluator, "_WRITE_SECONDS", 1e9), pytest.raises(Interrupted):
        run(plan, context(plan, tmp_path, check=check))
    (journal,) = (tmp_path / ".evaluation").iterdir()
    kept = [json.loads(line) for line in journal.read_text().splitlines()]
    assert len(kept) == 2
    workers = Fed(plan, tmp_path / "scratch")
    run(plan, context(plan, tmp_path, workers))
    assert files(tmp_path) == files(here)
    asked = [key for unit in workers.units if unit.task.model == "post" for key in unit.task.keys]
    assert len(asked) == 2 * 6 - 2


def test_the_grader_ends_with_the_stage(plan: SweepPlan, tmp_path: pathlib.Path) -> None:
    work = stage.EvaluationWork(
        plan.jobs, COMPARISONS, plan.prepared["evaluation"], context(plan, tmp_path)
    )
    assert work.grader.worker.process is None
    process = work.grader.worker.running()
    del work  # as a worker does, which closes nothing
    assert process.poll() is not None
