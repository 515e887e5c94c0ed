"""What the benchmarks share: checkpoints of real layer shapes, and what a command takes."""

from __future__ import annotations

import os
import pathlib
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from typing import Any

import numpy as np

from svdjax.checkpoint import FAMILIES, LazyTensor, model_config, write_checkpoint
from svdjax.checkpoint.formats import DTYPES
from svdjax.errors import InputError

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


def generate(
    folder: pathlib.Path, layers: int, posts: int = 1, vocabulary: int = 1024
) -> list[pathlib.Path]:
    """Finds or makes a base and its post models in bf16, with the layer shapes of Qwen2.5-1.5B.

    Geometric spectra with condition numbers from 1e2 to 1e5, another for each matrix; a post is
    1 % of Gaussian noise away.

    Args:
        folder: Where they are kept.
        layers: Their depth.
        posts: How many.
        vocabulary: Rows of the embeddings, which are not analysed.
    """
    raw = QWEN2_5_1_5B | {"num_hidden_layers": layers, "vocab_size": vocabulary}
    config = model_config(raw)
    found = []
    for side in range(posts + 1):
        found.append(
            folder / f"qwen2_5_1_5b-{layers}-{vocabulary}-{f'post{side}' if side else 'base'}"
        )
        if (found[side] / "config.json").is_file():
            continue
        print(f"generating {found[side]}", file=sys.stderr, flush=True)
        outgoing = [
            LazyTensor(
                name,
                weight.stored_shape(config),
                DTYPES["BF16"],
                lambda weight=weight, layer=layer, side=side: _tensor(
                    weight.path, layer, weight.stored_shape(config), side
                ),
            )
            for weight in FAMILIES[config.family].present(config)
            for layer, name in enumerate(weight.tensors(config))
        ]
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(found[side], outgoing, raw, max_shard_bytes=1_000_000_000)
    return found


def _tensor(path: str, layer: int, shape: tuple[int, ...], side: int) -> np.ndarray:
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    name = [*path.encode(), layer]
    rng = np.random.default_rng([0, *name])
    r = min(shape)
    kappa = 10 ** rng.uniform(2, 5)
    value = np.zeros(shape, np.float32)
    value[np.arange(r), np.arange(r)] = np.geomspace(1, 1 / kappa, r, dtype=np.float32)
    value = _turn(_turn(value, rng).T, rng).T
    value *= 0.03 * np.sqrt(value.size) / np.linalg.norm(value)
    if side:
        noise = np.random.default_rng([side, *name]).standard_normal(shape, np.float32)
        value += 0.01 * np.sqrt(np.mean(value**2)) * noise
    return value


def _turn(value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random orthogonal matrix, out of signs and cosine transforms, times `value`."""
    from scipy.fft import dct

    for _ in range(2):
        signs = rng.choice(np.array([-1, 1], np.float32), (len(value), 1))
        value = np.asarray(dct(signs * value, axis=0, norm="ortho"), np.float32)
    return value


def measure(command: list[str], limit: int = 0) -> dict[str, Any]:
    """Runs a command; seconds, peak RssAnon in bytes, and what it printed.

    Args:
        command: What to run.
        limit: Most private memory it may hold, in bytes (RLIMIT_DATA); 0 for any.

    Raises:
        InputError: It failed.
    """

    def bound() -> None:
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=out, stderr=log, preexec_fn=bound)
        while process.poll() is None:
            peak = max(peak, _anonymous(process.pid))
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        log.seek(0)
        out.seek(0)
        if process.returncode:
            raise InputError(f"the command failed: {log.read()[-600:]}")
        return {"seconds": seconds, "peak_rss_anon": peak, "printed": out.read(), "log": log.read()}


def _anonymous(pid: int) -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", _read(f"/proc/{pid}/status"))
    return 1024 * int(found[1]) if found else 0


def machine() -> dict[str, Any]:
    """What the figures were measured on, with what, and when."""
    lines = re.findall(r"^(model name|flags)\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    said = dict(lines)
    flags = set(said.get("flags", "").split())
    widest = [name for name in ("amx_tile", "avx512f", "avx2") if name in flags]
    return {
        "cpu": said.get("model name", platform.processor() or platform.machine()),
        "instructions": widest[0] if widest else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "jax": version("jax"),
        "date": time.strftime("%Y-%m-%d"),
    }


def _read(path: str) -> str:
    try:
        return pathlib.Path(path).read_text(encoding="utf-8")
    except OSError:  # not Linux
        return ""
