"""Runs `python -m svdjax.construct`, here or in a process, and builds what it should have built."""

from __future__ import annotations

import contextlib
import json
import pathlib
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.construct.checkpoint import run_construct
from svdjax.construct.edit import ConstructOutcome
from svdjax.construct.job import ConstructJob
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError, Interrupted
from tests.spectral import reference
from tests.support import tiny
from tests.support.commands import call
from tests.sweep import harness
from tests.sweep.harness import Done

TENSOR = "model.layers.{}.{}.{}.weight"
INDEX = "model.safetensors.index.json"


def command(*flags: str) -> list[str]:
    """The command line."""
    return [sys.executable, "-m", "svdjax.construct", *flags]


def start(env: dict[str, str], *flags: str) -> subprocess.Popen[str]:
    """Starts the command and returns its process."""
    return subprocess.Popen(
        command(*flags),
        cwd=harness.ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def construct(*flags: str, stop: Callable[[str], object] | None = None) -> Done:
    """Runs the command in this process (see `call`), on one device if nothing is said."""
    said = any(one.startswith("--devices=") for one in flags)
    return call("construct", *flags, *["--devices=1"] * (not said), stop=stop)


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """While entered, no file of this process can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class StopAfter(StopRequest):
    """A request to stop that comes at the nth place where the work can be stopped."""

    def __init__(self, count: int):
        super().__init__()
        self.left = count

    def check(self, done: str = "") -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted(f"stopped ({done})")


def run(
    base: pathlib.Path,
    post: pathlib.Path,
    construction: str,
    out: pathlib.Path,
    *,
    stop: StopRequest | None = None,
    **options: Any,
) -> ConstructOutcome:
    """Runs a construction in this process, on one device."""
    given: Any = {"devices": 1} | options
    job = ConstructJob(
        base=str(base), post=str(post), out=str(out), construction=construction, **given
    )
    return run_construct(job, stop=stop)


def refused(folder: pathlib.Path, make: Callable[[], object], *words: str) -> None:
    """One line that has `words`, and everything in `folder` is as before."""
    before = listing(folder)
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert message.isprintable()  # no line breaks, no escape sequences
    for word in words:
        assert word in message, message
    assert listing(folder) == before


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
    chosen: Callable[[str, str, int], bool] = lambda module, projection, layer: True,
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
        # Norms of queries and keys lie as deep as the linear layers.
        if len(parts) != 6 or value.ndim != 2 or not chosen(parts[3], parts[4], int(parts[2])):
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
        if len(parts) == 6 and value.ndim == 2:
            ratios.setdefault(parts[4], []).append(top_ratios(before[tensor], value))
    return {name: float(np.mean(parts)) for name, parts in ratios.items()}


def top_ratios(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Ratios of the top 90 % of the singular values of two matrices."""
    pair = [np.linalg.svd(w.astype(np.float64), compute_uv=False) for w in (before, after)]
    top = int(0.9 * len(pair[0]))
    return pair[1][:top] / pair[0][:top]


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


def edit(directory: pathlib.Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Rewrites the files of a checkpoint as `change(tensors of a file)` leaves them."""
    for file in sorted(directory.glob("*.safetensors")):
        tensors = tiny.load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})


def edit_config(directory: pathlib.Path, **values: Any) -> None:
    """Changes leaves of config.json."""
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


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
