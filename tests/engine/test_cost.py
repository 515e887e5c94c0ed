"""Predictions on paper: against what XLA counts, and against themselves."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from svdjax.engine import cost
from svdjax.spectral import MEASURES, get_factorisation, kernels, working_precision
from svdjax.spectral.compare import select_method
from tests.sweep import harness
from tools import scale

RATES = cost.Rates("imagined", 1e11, {256: 0.01, 1024: 0.3})
LARGE = scale.MODELS["Llama-3.1-70B"]


@pytest.mark.parametrize("shape", [(256, 256), (256, 1408)])
def test_memory_is_what_xla_allocates(shape):
    stack = jax.ShapeDtypeStruct((2, *shape), np.float32)
    with working_precision("auto"):
        program = kernels._analyse.program.lower(
            (stack, stack, (None, None), jax.ShapeDtypeStruct((2, 2, 2), np.float64)),
            method=select_method(get_factorisation("auto"), shape, full_rotations=False),
            corner=25,
            measure="vectors",
            mesh=None,
        ).compile()
    found = program.memory_analysis()
    assert found is not None
    # A formula for all shapes; XLA reuses buffers as it sees fit.
    assert 0.7 < cost.pair_cost(shape).working / found.temp_size_in_bytes < 1.4


def test_operations_grow_with_the_cube():
    for shape in ((64, 64), (64, 512)):
        one, double = (cost.pair_cost((k * shape[0], k * shape[1])) for k in (1, 2))
        assert double.operations == pytest.approx(8 * one.operations)
        assert double.stored == 4 * one.stored
    assert cost.pair_cost((64, 512)) == cost.pair_cost((512, 64))


def test_every_measure_takes_longer_than_the_one_before():
    for shape in ((256, 256), (256, 300), (256, 1024)):
        costs = [cost.pair_cost(shape, measure=measure) for measure in MEASURES]
        seconds = [RATES.seconds(one) for one in costs]
        assert seconds == sorted(seconds)
        assert len(set(seconds)) == len(MEASURES)
        svd = cost.pair_cost(shape, gram=False)
        assert RATES.seconds(svd) > RATES.seconds(cost.pair_cost(shape))


def test_devices_together_are_as_many_times_as_quick():
    one = cost.pair_cost((512, 4096))
    assert RATES.together(4).seconds(one) == pytest.approx(RATES.seconds(one) / 4)
    assert RATES.together(4).read_seconds(1e6, 1e3) == pytest.approx(
        RATES.read_seconds(1e6, 1e3) / 4
    )


def test_answers_take_a_step_for_each_token_of_a_batch():
    config: Any = SimpleNamespace(num_layers=4, num_kv_heads=2, head_dim=32)

    def seconds(answers: int, tokens: float) -> float:
        return RATES.answer_seconds(1e6, config, answers=answers, tokens=tokens, batch=8)

    assert seconds(1, 100) == seconds(8, 100)
    assert seconds(32, 100) == pytest.approx(4 * seconds(8, 100))
    # Each step is over as much of the cache as there is by then.
    assert 2 * seconds(8, 100) < seconds(8, 200) < 4 * seconds(8, 100)


def test_a_base_with_three_posts_costs_less_than_three_pairs():
    for shape in ((512, 512), (512, 4096)):
        one, three = (RATES.seconds(cost.pair_cost(shape, posts=posts)) for posts in (1, 3))
        assert 2 * one < three < 3 * one


def test_eigenproblems_between_and_beyond_the_measured_sizes():
    assert RATES.eigen_seconds(256) == pytest.approx(0.01)
    assert RATES.eigen_seconds(512) == pytest.approx((0.01 * 0.3) ** 0.5)
    assert RATES.eigen_seconds(2048) == pytest.approx(8 * 0.3)
    assert 0 < RATES.eigen_seconds(2) < 0.01


def test_more_devices_take_less_time_until_reading_takes_longest():
    seconds = [scale.predict(LARGE, RATES, devices=count).seconds for count in (1, 2, 8, 80)]
    assert seconds == sorted(seconds, reverse=True)
    # Before it computes it has started, and looked at all matrices.
    before = cost.START_SECONDS + scale.predict(LARGE, RATES).read / RATES.read
    assert seconds[0] - before == pytest.approx(8 * (seconds[2] - before))
    slow = cost.Rates("imagined", 1e11, RATES.eigen, read=1e6)
    parameters = sum(
        shape[0] * shape[1] * count * LARGE.layers for shape, count in LARGE.matrices.items()
    )
    assert scale.predict(LARGE, slow, devices=80).seconds == pytest.approx(
        cost.START_SECONDS + 2 * 4 * parameters / 1e6
    )


def test_a_worker_of_one_device_takes_what_one_process_does_and_its_start():
    for model in scale.MODELS.values():
        one = scale.predict_cluster(model, RATES, nodes=1, devices=1)
        alone = scale.predict(model, RATES)
        assert one.seconds - scale._RAY_SECONDS == pytest.approx(alone.seconds)
        assert one.read == 2 * alone.read
        assert one.limit == "devices"


def test_more_nodes_take_less_time_until_something_else_takes_longest():
    def predict(nodes: int, rates: cost.Rates = RATES, **others: Any) -> scale.ClusterPrediction:
        return scale.predict_cluster(LARGE, rates, nodes=nodes, **others)

    few, many = predict(1), predict(8)
    assert many.read == few.read / 8
    assert few.units == many.units > 8 * 8
    assert few.computing / 8 <= many.computing < few.computing / 8 + many.longest
    assert predict(80).limit == "longest unit"
    slow = cost.Rates("imagined", 1e15, {1024: 1e-6}, read=1e9)
    # Each node reads at its own rate, until the file system has no more to give.
    assert predict(4, slow).reading == pytest.approx(predict(1, slow).reading / 4)
    assert predict(80, slow).reading == predict(40, slow).reading == few.read / 2 / 1e10
    assert predict(8, slow).limit == "file system"
    quick = dataclasses.replace(slow, read=1e15)
    assert predict(8, quick, file_system=1e15).limit == "start"
    assert predict(8, quick, file_system=1e15).driver == few.units * scale._UNIT_SECONDS


def test_layers_that_do_not_divide_are_no_loss_to_workers_of_one_device():
    model = scale.MODELS["Qwen2.5-7B"]
    assert model.layers % 8
    rates = dataclasses.replace(RATES, read=1e15)
    one = scale.predict(model, rates, devices=8).seconds - cost.START_SECONDS
    workers = scale.predict_cluster(model, rates, nodes=1).computing
    assert 28 / 32 <= workers / one < 0.95


def test_the_tool_measures_and_predicts_from_what_it_measured(env, tmp_path):
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "tools/scale.py", *arguments],
            cwd=harness.ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    first = run("--sizes=16,32", "--product=64")
    rates = json.loads(first.splitlines()[1])
    assert set(rates["eigen"]) == {"16", "32"}
    assert rates["products"] > 0
    path = pathlib.Path(tmp_path / "rates.json")
    path.write_text(json.dumps(rates))
    assert run(f"--rates={path}") == first
    for name in scale.MODELS:
        assert first.count(f"| {name} |") == 2
    path.write_text("{}")
    wrong = subprocess.run(
        [sys.executable, "tools/scale.py", f"--rates={path}"],
        cwd=harness.ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
