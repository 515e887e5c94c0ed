"""Runs the real command in real processes, and the equations in plain float64 numpy."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors import safe_open

from tests.support import tiny
from tests.support.commands import ROOT, Done, call
from tests.support.flags import quick_flags

# Keys of fewer heads in one of them only: every shape is a program to compile.
STORED: dict[str, dict[str, Any]] = {
    "qwen2": {"dtype": "bfloat16", "shards": 2, "style": "v5"},
    "llama": {"dtype": "float32", "num_key_value_heads": 4},
    "mistral": {"dtype": "float16", "shards": 3, "num_key_value_heads": 4},
    "gemma2": {"dtype": "bfloat16", "style": "v5", "num_key_value_heads": 4},
    "phi3": {"dtype": "bfloat16", "num_key_value_heads": 4},
}
SQUARE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_hidden_layers": 4,
}


def tiny_pair(root: pathlib.Path, family: str) -> tuple[pathlib.Path, pathlib.Path]:
    """A base and a post model of a family, stored in one of the ways there are."""
    base = tiny.make_checkpoint(root / "base", family, seed=11, **STORED[family])
    return base, tiny.perturb(base, root / "post", seed=12)


def square_pair(root: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A base and a post model of four layers whose matrices have one shape: little to compile."""
    base = tiny.make_checkpoint(root / "base", "llama", seed=11, dtype="float32", **SQUARE)
    return base, tiny.perturb(base, root / "post", seed=12)


def flags(devices: int) -> str:
    """XLA_FLAGS of commands: quick to compile."""
    return f"--xla_force_host_platform_device_count={devices} {quick_flags()}"


def environment(devices: int = 1) -> dict[str, str]:
    """Of commands, whatever the tests' own settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("JAX_")}
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags(devices),
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": os.environ["SVDJAX_TEST_CACHE"],
        # It would make its list of fonts anew there.
        "MPLCONFIGDIR": str(pathlib.Path.home() / ".cache" / "matplotlib"),
        "MPLBACKEND": "Agg",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error::RuntimeWarning",
    }


def command(*arguments: str) -> list[str]:
    """The sweep's command line."""
    return [sys.executable, "-m", "svdjax.sweep", *arguments]


def start(env: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Starts a sweep and returns its process."""
    return subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[str], timeout: float = 240) -> Done:
    """Waits for a process."""
    out, err = process.communicate(timeout=timeout)
    return Done(process.returncode, out, err)


def sweep(env: dict[str, str], *arguments: str) -> Done:
    """Runs a sweep to its end."""
    return finish(start(env, *arguments))


def sweep_here(*arguments: str, stop: Callable[[str], object] | None = None) -> Done:
    """Runs a sweep to its end in this process (see `call`), on one device if nothing is said."""
    said = any(one.startswith("--config.devices=") for one in arguments)
    return call("sweep", *arguments, *["--config.devices=1"] * (not said), stop=stop)


def snapshot(workdir: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a workdir that is being written: what a kill at this moment would leave."""
    for folder, _, names in os.walk(workdir):
        place = target / pathlib.Path(folder).relative_to(workdir)
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            # Another thread may rename a temporary file just now.
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(pathlib.Path(folder, name), place / name)


def tensor(directory: pathlib.Path, name: str) -> np.ndarray:
    """A stored tensor as float64 (in, out), straight from whichever file holds it."""
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as handle:
            if name in handle.keys():  # noqa: SIM118  (not a mapping)
                return handle.get_tensor(name).astype(np.float64).T
    raise KeyError(name)


def expected(base: np.ndarray, post: np.ndarray) -> dict[str, np.ndarray]:
    """The definitions of docs/mathematics.md, word for word, for one matrix (in, out)."""
    u_base, s_base, vt_base = np.linalg.svd(base, full_matrices=False)
    u_post, s_post, vt_post = np.linalg.svd(post, full_matrices=False)
    q1 = u_base.T @ u_post
    q2 = vt_base @ vt_post.T
    r = len(s_base)
    i_orth = q1.T @ q2
    return {
        "sigma_base": s_base,
        "sigma_post": s_post,
        "svsm": s_post / s_base,
        "nf": np.array(np.linalg.norm(i_orth - np.eye(r)) / r),
        "sim_u": np.abs(q1),
        "sim_v": np.abs(q2),
    }


def spectra(workdir: pathlib.Path, pair: str = "pair") -> dict[str, np.ndarray]:
    """All arrays a pair left, spectra and vectors."""
    arrays = {}
    for name in ("spectra.npz", "vectors.npz"):
        with np.load(workdir / pair / name, allow_pickle=False) as stored:
            arrays |= {key: stored[key] for key in stored.files}
    return arrays


def leftovers(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Temporary files and journals that should not be there after a finished sweep."""
    return [*workdir.rglob("*.tmp"), *workdir.glob(".journal")]
