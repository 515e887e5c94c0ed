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
import os
import pathlib
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np
from absl import flags

from svdjax import door
from svdjax.checkpoint import FAMILIES, Outgoing, Weight, model_config, write_checkpoint
from svdjax.checkpoint.formats import DTYPES
from svdjax.constructions.recipes import RECIPES
from svdjax.errors import InputError

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

QWEN2_5_1_5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
}


def generate(folder: pathlib.Path, layers: int) -> dict[str, pathlib.Path]:
    """Base and post of a depth: Gaussian matrices with a decaying spectrum, post 2 % beside."""
    raw = QWEN2_5_1_5B | {"num_hidden_layers": layers}
    config = model_config(raw)
    found = {}
    for side in ("base", "post"):
        found[side] = folder / f"qwen2_5_1_5b-{layers}-{side}"
        if (found[side] / "config.json").is_file():
            continue
        print(f"generating {found[side]}", file=sys.stderr, flush=True)
        outgoing = [
            Outgoing(
                name,
                weight.stored_shape(config),
                DTYPES["BF16"],
                lambda weight=weight, layer=layer, side=side: _tensor(
                    weight.path, layer, weight.stored_shape(config), side
                ),
            )
            for weight in _ordered(config)
            for layer, name in enumerate(weight.tensors(config))
        ]
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(found[side], outgoing, raw, max_shard_bytes=1_000_000_000)
    return found


def _ordered(config: Any) -> tuple[Weight, ...]:
    return FAMILIES[config.family].present(config)


def _tensor(path: str, layer: int, shape: tuple[int, ...], side: str) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    name = [*path.encode(), layer]
    value = np.random.default_rng([0, *name]).standard_normal(shape, np.float32)
    # Columns that fall off over three decades give condition numbers of 1e3 to 1e4.
    value *= np.geomspace(1, 1e-3, shape[1], dtype=np.float32)[None, :] * 0.05
    if side == "post":
        noise = np.random.default_rng([1, *name]).standard_normal(shape, np.float32)
        noise *= 0.02 * np.sqrt(np.mean(value**2))
        value += noise
    return value


def measure(command: list[str], limit: int) -> dict[str, Any]:
    """Runs a command; its seconds and peak RssAnon in bytes.

    Raises:
      InputError: it failed.
    """

    def bound() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=bound)
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            raise InputError(f"the command failed: {log.read()[-600:]}")
    return {"seconds": round(seconds, 2), "peak_rss_anon": peak}


def _anonymous(pid: int) -> int:
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return 1024 * int(found[1]) if found else 0


def main() -> str:
    """Generates, runs, prints JSON."""
    folder = pathlib.Path(_FOLDER.value)
    sides = generate(folder, _LAYERS.value)
    size = sum(file.stat().st_size for file in sides["post"].glob("*.safetensors"))
    command = [
        *(sys.executable, "-m", "svdjax.construct", "--overwrite"),
        *(f"--base={sides['base']}", f"--post={sides['post']}", f"--out={folder / 'out'}"),
        *(f"--construction={_CONSTRUCTION.value}", f"--modules={_MODULES.value}"),
        *_OPTIONS.value,
    ]
    limit = int(_LIMIT.value * 1e9)
    result = {
        "shapes": "Qwen2.5-1.5B",
        "layers": _LAYERS.value,
        "construction": _CONSTRUCTION.value,
        "modules": _MODULES.value,
        "options": _OPTIONS.value,
        "checkpoint_bytes": size,
        "limit_bytes": limit or None,
        **measure(command, limit),
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
    return json.dumps(result, indent=2)


if __name__ == "__main__":
    door.run(main)
