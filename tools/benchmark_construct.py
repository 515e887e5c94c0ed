"""Measures time and peak memory of `python -m svdjax.construct` on checkpoints of real shapes.

    python tools/benchmark_construct.py --construction=eq11 --modules=self_attn
    python tools/benchmark_construct.py --layers=4 --construction=eq9 --limit_gb=1.6

Generates (or finds) a base and a post model with the layer shapes of Qwen2.5-1.5B in bf16 and any
depth, runs the command on them in a process of its own and prints one JSON object: seconds, peak
anonymous memory (RssAnon: mapped file pages do not count) beside the size of the checkpoint. With
--limit_gb the process may not hold more private memory than that (RLIMIT_DATA), and must succeed
all the same.
"""

from __future__ import annotations

import json
import pathlib
import sys

from absl import flags
from benchmark_shared import generate, machine, measure

from svdjax import cli
from svdjax.construct.recipes import RECIPES

_LAYERS = flags.DEFINE_integer("layers", 28, "Depth of the generated models.", 1)
_CONSTRUCTION = flags.DEFINE_enum("construction", "eq11", list(RECIPES), "Which construction.")
_MODULES = flags.DEFINE_string("modules", "self_attn", "Which linear layers.")
_OPTIONS = flags.DEFINE_multi_string(
    "option", [], "More flags for svdjax.construct, such as --x=1."
)
_LIMIT = flags.DEFINE_float(
    "limit_gb", 0.0, "Most private memory of the process, 1e9 bytes; 0: any."
)
_FOLDER = flags.DEFINE_string(
    "folder", "runs/benchmark_construct", "Where the generated checkpoints are kept."
)


def main() -> str:
    """Generates, runs, prints JSON."""
    folder = pathlib.Path(_FOLDER.value)
    base, post = generate(folder, _LAYERS.value, vocabulary=151936)
    size = sum(file.stat().st_size for file in post.glob("*.safetensors"))
    command = [
        *(sys.executable, "-m", "svdjax.construct", "--overwrite"),
        *(f"--base={base}", f"--post={post}", f"--out={folder / 'out'}"),
        *(f"--construction={_CONSTRUCTION.value}", f"--modules={_MODULES.value}"),
        *_OPTIONS.value,
    ]
    limit = int(_LIMIT.value * 1e9)
    run = measure(command, limit)
    result = {
        "shapes": "Qwen2.5-1.5B",
        "layers": _LAYERS.value,
        "construction": _CONSTRUCTION.value,
        "modules": _MODULES.value,
        "options": _OPTIONS.value,
        "checkpoint_bytes": size,
        "limit_bytes": limit or None,
        "seconds": round(run["seconds"], 2),
        "peak_rss_anon": run["peak_rss_anon"],
        **machine(),
    }
    return json.dumps(result, indent=2)


if __name__ == "__main__":
    cli.run(main)
