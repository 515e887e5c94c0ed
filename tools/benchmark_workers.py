"""Measures what workers of a Ray cluster cost: starting them, a unit, memory, and a sweep by them.

    python tools/benchmark_workers.py
    python tools/benchmark_workers.py --rounds=0        (no sweeps)

The cluster is one that svdjax starts on this machine. The sweep is that of tools/benchmark.py (two
layers of Qwen2.5-1.5B's shapes), by this process over all its devices and by workers of one core
each, in turns; both caches of programs are warm. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from absl import flags

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from svdjax import cli
from svdjax.engine.signals import StopRequest
from svdjax.engine.work.unit import Check, Piece, Unit

_UNITS = flags.DEFINE_integer("units", 1000, "Units of each size of result.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Sweeps by each way.", 0)
_FOLDER = flags.DEFINE_string("folder", "runs/benchmark", "Where the checkpoints are kept.")


class Echo:
    """Units whose results are so many zeros."""

    name, reads_ahead = "echo", True

    def compute(self, units: Iterable[Unit], check: Check) -> Iterator[Piece]:
        """Yields the zeros."""
        for unit in units:
            check("")
            yield Piece(unit, np.zeros(unit.task))


class Session:
    """A worker's side of `Echo`."""

    def about(self) -> dict[str, Any]:
        """Nothing that could differ."""
        return {"devices": ["core"]}

    def work(self, stage: str, shared: Any) -> Echo:
        """The units."""
        del stage, shared
        return Echo()

    def close(self) -> None:
        """Has nothing on disk."""


def main() -> str:
    """Measures, prints JSON."""
    from benchmark_shared import machine

    result: dict[str, Any] = {"mode": "workers", **_overhead()}
    if _ROUNDS.value:
        result["sweep"] = _sweeps()
    from importlib.metadata import version

    return json.dumps(result | machine() | {"ray": version("ray")}, indent=2)


def _overhead() -> dict[str, Any]:
    from svdjax.engine.work.ray import RayWorkers

    start = time.perf_counter()
    with StopRequest() as stop:
        with RayWorkers(Session, (), {}, devices=1, stop=stop) as workers:
            started = time.perf_counter() - start
            devices = workers.open(stop.check)
            opened = time.perf_counter() - start
            milliseconds = {}
            for name, count in (("8 B", 1), ("2 MB", 2**18)):
                units = [Unit(f"{name} {number}", name, count) for number in range(_UNITS.value)]
                began = time.perf_counter()
                done = sum(1 for _ in workers.do(Echo(), units, stop.check))
                assert done == len(units)
                milliseconds[name] = 1e3 * (time.perf_counter() - began) / len(units)
            memory = _memory()
            ending = time.perf_counter()
        ended = time.perf_counter() - ending
    return {
        "workers": len(devices),
        "start_seconds": {"cluster": started, "first_workers": opened, "end": ended},
        "milliseconds_per_unit": milliseconds,
        "pss_mib": memory,
    }


def _memory() -> dict[str, float]:
    """Proportional set sizes of this process, of each worker, and of all else that Ray runs."""
    import psutil

    sizes: dict[str, list[float]] = {"driver": [], "worker": [], "ray": []}
    this = psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        try:
            name = "driver" if process == this else (process.cmdline() or [""])[0]
            kind = {"driver": "driver"}.get(name, "worker" if "::Worker" in name else "ray")
            sizes[kind].append(process.memory_full_info().pss / 2**20)
        except psutil.Error:
            continue
    return {
        "driver": sum(sizes["driver"]),
        "each_worker": statistics.mean(sizes["worker"] or [0.0]),
        "ray_beside_them": sum(sizes["ray"]),
    }


def _sweeps() -> dict[str, Any]:
    from benchmark_shared import generate, measure

    base, post = generate(pathlib.Path(_FOLDER.value), 2)
    seconds: dict[str, list[float]] = {"here": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder, "W")
        for turn in range(_ROUNDS.value + 1):
            for workers, taken in seconds.items():
                shutil.rmtree(workdir, ignore_errors=True)
                command = [
                    *[sys.executable, "-m", "svdjax.sweep", f"--workers={workers}"],
                    *[f"--config=pair:base={base},post={post}", f"--workdir={workdir}"],
                    "--config.stages=('spectra',)",
                ]
                took = measure(command)["seconds"]
                if turn:  # the first ones compile
                    taken.append(took)
    medians = {way: statistics.median(taken) for way, taken in seconds.items()}
    return {
        "seconds": seconds,
        "devices_here": len(os.sched_getaffinity(0)),
        "ratio": medians["here"] / medians["ray"],
    }


if __name__ == "__main__":
    cli.run(main)
