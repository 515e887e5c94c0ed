"""Runs the real command in real processes, and the equations in plain float64 numpy."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors import safe_open

from tests.support import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Done:
    """A finished command."""

    status: int
    out: str
    err: str

    @property
    def computed(self) -> int:
        """Groups computed, counted in the log."""
        return sum(line.startswith("computed ") for line in self.err.splitlines())


STORED: dict[str, dict[str, Any]] = {
    "qwen2": {"dtype": "bfloat16", "shards": 2, "style": "v5"},
    "llama": {"dtype": "float32"},
    "mistral": {"dtype": "float16", "shards": 3},
    "gemma2": {"dtype": "bfloat16", "style": "v5"},
    "phi3": {"dtype": "bfloat16"},
}


def tiny_pair(root: pathlib.Path, family: str) -> tuple[pathlib.Path, pathlib.Path]:
    """A base and a post model of a family, stored in one of the ways there are."""
    base = tiny.make_checkpoint(root / "base", family, seed=11, **STORED[family])
    return base, tiny.perturb(base, root / "post", seed=12)


def flags(devices: int) -> str:
    """XLA_FLAGS of commands: quick to compile."""
    return f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"


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


def finish(process: subprocess.Popen[str]) -> Done:
    """Waits for a process."""
    out, err = process.communicate(timeout=240)
    return Done(process.returncode, out, err)


def sweep(env: dict[str, str], *arguments: str) -> Done:
    """Runs a sweep to its end."""
    return finish(start(env, *arguments))


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
