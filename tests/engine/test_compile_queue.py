"""Programs that are compiled ahead are the ones that are called."""

from __future__ import annotations

import threading

import jax
import ml_dtypes
import numpy as np
import pytest

from svdjax.engine.compile_queue import CompileQueue
from svdjax.spectral import (
    analyse_stack,
    compile_analysis,
    compile_prepare,
    prepare_stack,
    to_raw,
    working_precision,
)

COMPILED = "/jax/core/compile/backend_compile_duration"


def test_each_is_made_once_in_order_by_another_thread():
    made = []

    def make(name):
        made.append((name, threading.current_thread() is threading.main_thread()))

    with CompileQueue() as ahead:
        for name in ("b", "a", "b"):
            ahead.request(name, lambda name=name: make(name))
        ahead.wait("a")
        ahead.wait("never asked for")
    assert made == [("b", False), ("a", False)]


def test_what_fails_is_left_to_the_call_itself():
    made = []

    def fail():
        made.append("x")
        raise MemoryError("no room")

    with CompileQueue() as ahead:
        ahead.request("x", fail)
        ahead.request("y", lambda: made.append("y"))
        ahead.wait("x")
        ahead.wait("y")
    assert made == ["x", "y"]


@pytest.mark.parametrize("shape", [(40, 120), (48, 56)])
@pytest.mark.parametrize("given", [(False, False), (True, True), (True, False)])
def test_a_call_compiles_nothing_more(shape, given):
    mesh = jax.make_mesh((1,), ("layers",), devices=jax.local_devices()[:1])
    options = {"factorisation": "gram_f64", "corner": 5, "measure": "vectors", "mesh": mesh}
    rng = np.random.default_rng(0)
    base, post = map(to_raw, rng.standard_normal((2, 2, *shape)).astype(ml_dtypes.bfloat16))
    compiled = []

    def heard(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            compiled.append(duration_secs)

    with CompileQueue() as ahead:

        def make():
            with working_precision("gram_f64"):
                if any(given):
                    how = {"factorisation": "gram_f64", "measure": "vectors", "mesh": mesh}
                    compile_prepare((2, *shape), base.dtype, **how)
                compile_analysis((2, *shape), (base.dtype, post.dtype), known=given, **options)

        ahead.request("it", make)
        ahead.wait("it")
        jax.monitoring.register_event_duration_secs_listener(heard)
        try:
            with working_precision("gram_f64"):
                known = (
                    prepare_stack(base, measure="vectors", mesh=mesh) if given[0] else None,
                    prepare_stack(post, measure="vectors", mesh=mesh) if given[1] else None,
                )
                metrics = analyse_stack(base, post, known=known, **options)
                assert np.all(np.isfinite(jax.device_get(metrics.nf)))
        finally:
            jax.monitoring.unregister_event_duration_listener(heard)
    assert len(compiled) == 0
