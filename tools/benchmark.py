"""Measures svdjax against a loop over torch.linalg.svd, on checkpoints of real layer shapes.

    python tools/benchmark.py --layers=2
    python tools/benchmark.py --layers=2 --posts=3
    python tools/benchmark.py --mode=command --layers=2
    python tools/benchmark.py --mode=constructions --layers=2

Generates (or finds) a base and post models with the layer shapes of a named model, in bf16, with
geometric spectra of condition numbers from 1e2 to 1e5, and runs on the same files, in turns:

(a) a careful torch loop in a process of its own: each matrix read, in float32 and its tall
    orientation, torch.linalg.svd of both, SVSM, I_orth, NF; on CUDA where there is one. The first
    turn also runs the naive orientation.
(b) `python -m svdjax.sweep` with the measures that (a) has (``--measure=vectors``), and once with
    those of a default sweep.

Prints one JSON object: seconds of every turn and their medians, ratios, peak anonymous memory
(RssAnon: mapped file pages do not count), the split of (b) into its parts and shapes, and which
part of the machine's measured float64 matrix-product rate it reaches. ``--mode=command`` takes what
a user types for (b), `svdjax compare BASE POST` with its default measure, files to page.
``--mode=constructions`` does the same for eq. 11 on the attention modules: the loop and
`svdjax.construct`, files to files.

torch is needed for (a): ``pip install -e ".[torch]"``; --nouse_torch leaves it out.
"""

from __future__ import annotations

import json
import pathlib
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags
from benchmark_shared import generate, machine, measure

from svdjax import cli

_LAYERS = flags.DEFINE_integer("layers", 2, "Depth of the generated models.", 1)
_POSTS = flags.DEFINE_integer("posts", 1, "Post models of the one base.", 1)
_RUNS = flags.DEFINE_integer("runs", 3, "Alternating runs of each; the median counts.", 1)
_MODE = flags.DEFINE_enum(
    "mode", "analysis", ["analysis", "command", "constructions"], "What to measure."
)
_MEASURE = flags.DEFINE_string("measure", "vectors", "config.measure of (b).")
_TORCH = flags.DEFINE_bool("use_torch", True, "Also run (a).")
_FOLDER = flags.DEFINE_string("folder", "runs/benchmark", "Where generated checkpoints are kept.")

HERE = pathlib.Path(__file__).resolve().parent


def sweep(sides: list[pathlib.Path], folder: pathlib.Path, level: str) -> dict[str, Any]:
    """One sweep over all pairs in a fresh workdir; the time of its parts and shapes."""
    workdir, config = folder / "workdir", folder / "config.py"
    shutil.rmtree(workdir, ignore_errors=True)
    pairs = {
        f"post{i}": {"base": str(sides[0]), "post": str(post)}
        for i, post in enumerate(sides[1:], 1)
    }
    config.write_text(
        "from svdjax.options import default_config\n"
        f"def get_config(_=None):\n    return default_config('benchmark', {pairs!r}, "
        f"stages=('spectra',), measure={level!r})\n",
        encoding="utf-8",
    )
    command = ["svdjax.sweep", f"--config={config}", f"--workdir={workdir}"]
    return _split(measure([sys.executable, "-m", *command]), workdir)


def compare(sides: list[pathlib.Path], folder: pathlib.Path) -> dict[str, Any]:
    """The command for one pair, as a user types it, into a fresh folder."""
    out = folder / "compared"
    shutil.rmtree(out, ignore_errors=True)
    command = ["svdjax", "compare", *map(str, sides[:2]), f"--out={out}"]
    return _split(measure([sys.executable, "-m", *command]), out)


def _split(run: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """A run with the time of its parts and shapes."""
    state = json.loads((workdir / "sweep.json").read_text(encoding="utf-8"))
    shapes: dict[str, float] = {}
    for name, seconds in re.findall(r"computed \S+ \S+ (\w+)\[\S+ \(([\d.]+) s", run["log"]):
        shapes[name] = shapes.get(name, 0) + float(seconds)
    stages = {name: one["seconds"] for name, one in state["stages"].items() if "seconds" in one}
    run["split"] = {
        "validate": stages["validate"],
        "compute": sum(shapes.values()),
        "read_wait_and_write": stages["spectra"] - sum(shapes.values()),
        "report": stages.get("report", 0.0),
        "start": run["seconds"] - sum(stages.values()),
    }
    run["shapes"] = shapes
    return run


def torch_loop(sides: list[pathlib.Path], *options: str) -> dict[str, Any]:
    """The torch loop over every pair, one process each, as one would run it."""
    runs = []
    for post in sides[1:]:
        command = [sys.executable, str(HERE / "benchmark_torch.py"), str(sides[0]), str(post)]
        runs.append(measure([*command, *options]))
    shapes: dict[str, float] = {}
    for run in runs:
        for name, seconds in json.loads(run["printed"])["shapes"].items():
            shapes[name] = shapes.get(name, 0) + seconds
    return {
        "seconds": sum(run["seconds"] for run in runs),
        "peak_rss_anon": max(run["peak_rss_anon"] for run in runs),
        "shapes": shapes,
        "device": json.loads(runs[0]["printed"])["device"],
    }


def construct(sides: list[pathlib.Path], folder: pathlib.Path) -> dict[str, Any]:
    """Eq. 11 on the attention modules, as a command."""
    command = [sys.executable, "-m", "svdjax.construct", "--overwrite", "--construction=eq11"]
    command += [f"--base={sides[0]}", f"--post={sides[1]}", f"--out={folder / 'out'}"]
    return measure([*command, "--modules=self_attn"])


def product_rate() -> float:
    """float64 operations a second of a matrix product, all cores."""
    matrix = np.random.default_rng(0).standard_normal((2048, 2048))
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        np.matmul(matrix, matrix)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best


def needed_work(layers: int, posts: int) -> float:
    """Operations of what (b) cannot do without: Gram matrices, eigenproblems (9 r^3), products."""
    total = 0.0
    hidden, wide, kv = 1536, 8960, 256
    for r, long, count in ((hidden, hidden, 2), (kv, hidden, 2), (hidden, wide, 3)):
        alone = long * r**2 + 9 * r**3
        total += count * layers * ((posts + 1) * alone + posts * (2 * long * r**2 + 6 * r**3))
    return total


def main() -> str:
    """Generates, runs in turns, prints JSON."""
    folder = pathlib.Path(_FOLDER.value)
    sides = generate(folder, _LAYERS.value, _POSTS.value)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    rate = product_rate()
    analysis = _MODE.value == "analysis"
    run_ours: dict[str, Callable[[], dict[str, Any]]] = {
        "analysis": lambda: sweep(sides, folder, _MEASURE.value),
        "command": lambda: compare(sides, folder),
        "constructions": lambda: construct(sides, folder),
    }
    options = ["--construct"] if _MODE.value == "constructions" else []
    # The first run compiles; it is reported, and not counted.
    cold = run_ours[_MODE.value]()
    for _ in range(_RUNS.value):
        if _TORCH.value:
            theirs.append(torch_loop(sides[:2] if _MODE.value == "command" else sides, *options))
        ours.append(run_ours[_MODE.value]())
    middle = statistics.median(run["seconds"] for run in ours)
    result: dict[str, Any] = {
        "mode": _MODE.value,
        "shapes": "Qwen2.5-1.5B",
        "layers": _LAYERS.value,
        "posts": _POSTS.value,
        "svdjax": _summary(ours) | {"first_run_seconds": round(cold["seconds"], 2)},
    }
    if "split" in ours[-1]:
        result["svdjax"]["split_seconds"] = _rounded(ours[-1]["split"])
    if analysis:
        result["svdjax"]["measure"] = _MEASURE.value
        result["svdjax"]["of_product_rate"] = round(
            needed_work(_LAYERS.value, _POSTS.value) / ours[-1]["split"]["compute"] / rate, 3
        )
        sweep(sides, folder, "fits")  # compiles
        result["svdjax"]["default_measure_seconds"] = round(
            sweep(sides, folder, "fits")["seconds"], 2
        )
    if theirs:
        result["torch"] = _summary(theirs) | {"device": theirs[0].get("device")}
        other = statistics.median(run["seconds"] for run in theirs)
        result["ratio"] = round(other / middle, 2)
        if analysis:
            naive = torch_loop(sides[:2], "--naive")["seconds"]
            result["torch"]["naive_seconds_one_pair"] = round(naive, 2)
    result |= {
        "product_rate_gflops_f64": round(rate / 1e9, 1),
        **machine(),
    }
    return json.dumps(result, indent=2)


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    found = {
        "seconds": [round(run["seconds"], 2) for run in runs],
        "median_seconds": round(statistics.median(run["seconds"] for run in runs), 2),
        "peak_rss_anon": max(run["peak_rss_anon"] for run in runs),
    }
    if "shapes" in runs[-1]:
        found["seconds_by_projection"] = _rounded(runs[-1]["shapes"])
    return found


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


if __name__ == "__main__":
    cli.run(main)
