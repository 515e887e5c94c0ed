"""Runs `python -m svdjax.construct` in real processes, and builds what it should have built."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.engine import harness
from tests.engine.harness import Done
from tests.spectral import reference
from tests.support import tiny

TENSOR = "model.layers.{}.{}.{}.weight"


def start(env: dict[str, str], *flags: str, **options: Any) -> subprocess.Popen[str]:
    """Starts the command and returns its process."""
    return subprocess.Popen(
        [sys.executable, "-m", "svdjax.construct", *flags],
        cwd=harness.ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def construct(env: dict[str, str], *flags: str, **options: Any) -> Done:
    """Runs the command to its end."""
    return harness.finish(start(env, *flags, **options))


def companions(directory: pathlib.Path) -> dict[str, str]:
    """Puts the files into a checkpoint that belong to it beside the weights; their contents."""
    files = {
        "tokenizer.json": "{}",
        "tokenizer_config.json": '{"a": 1}',
        "chat_template.jinja": "{{ messages }}",
        "generation_config.json": '{"temperature": 0.5}',
        "LICENSE": "free",
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    (directory / "modeling_odd.py").write_text("raise SystemExit")
    (directory / "pytorch_model.bin").write_bytes(b"\x80")
    return files


def expected(
    base: pathlib.Path,
    post: pathlib.Path,
    name: str,
    chosen: Callable[[str, str, int], bool],
    *,
    alpha: dict[str, float] | None = None,
    aligned: bool = False,
) -> dict[str, np.ndarray]:
    """The constructed tensors [out, in] in float64, straight from the equations.

    `chosen(module, projection, layer)` says which matrices are edited.
    """
    found = {}
    before, after = tiny.read_tensors(base), tiny.read_tensors(post)
    for tensor, value in after.items():
        parts = tensor.split(".")
        if (
            len(parts) != 6
            or parts[-1] != "weight"
            or not chosen(parts[3], parts[4], int(parts[2]))
        ):
            continue
        new = reference.constructed(
            name,
            before[tensor].astype(np.float64).T,
            value.astype(np.float64).T,
            alpha=(alpha or {}).get(parts[4], 1.0),
            aligned=aligned,
        )
        found[tensor] = new.T
    return found


def means(base: pathlib.Path, post: pathlib.Path) -> dict[str, float]:
    """Mean scaling of the top 90 % of the singular values, by projection."""
    ratios: dict[str, list[np.ndarray]] = {}
    before, after = tiny.read_tensors(base), tiny.read_tensors(post)
    for tensor, value in after.items():
        parts = tensor.split(".")
        if len(parts) == 6 and parts[-1] == "weight":
            pair = [
                np.linalg.svd(w.astype(np.float64), compute_uv=False)
                for w in (before[tensor], value)
            ]
            top = int(0.9 * len(pair[0]))
            ratios.setdefault(parts[4], []).append(pair[1][:top] / pair[0][:top])
    return {name: float(np.mean(parts)) for name, parts in ratios.items()}


def in_float32(
    target: pathlib.Path, post: pathlib.Path, new: dict[str, np.ndarray]
) -> pathlib.Path:
    """A float32 checkpoint of post with some tensors replaced, by the safetensors library."""
    target.mkdir()
    tensors = {k: v.astype(np.float32) for k, v in tiny.read_tensors(post).items()}
    tensors |= {k: np.ascontiguousarray(v.astype(np.float32)) for k, v in new.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((post / "config.json").read_text())
    config |= {key: "float32" for key in ("dtype", "torch_dtype") if key in config}
    (target / "config.json").write_text(json.dumps(config))
    return target


def listing(folder: pathlib.Path) -> list[tuple[str, bytes | None]]:
    """Every file and folder below, with contents."""
    return [
        (str(path.relative_to(folder)), path.read_bytes() if path.is_file() else None)
        for path in sorted(folder.rglob("*"))
    ]


def bits(directory: pathlib.Path, names: Iterable[str] | None = None) -> dict[str, bytes]:
    """Bytes of tensors by name."""
    tensors = tiny.read_tensors(directory)
    return {name: tensors[name].tobytes() for name in (tensors if names is None else names)}


def finish_quietly(process: subprocess.Popen[str]) -> int:
    """Waits for a process whose output does not matter; its status."""
    process.communicate(timeout=240)
    return process.returncode
