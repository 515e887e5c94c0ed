"""One numerical world for every test: two CPU devices, strict dtypes, warnings as errors."""

from __future__ import annotations

import os
import pathlib

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two devices that both call a threaded LAPACK wait for each other most of the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import pytest

from tests.engine import harness

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of the commands: one compilation cache, and no torch.

    The commands never need it, but transformers loads it where it is installed, which would be
    half of what every process takes.
    """
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    found = harness.environment(tmp_path_factory.getbasetemp() / "compiled")
    return found | {"PYTHONPATH": f"{site}{os.pathsep}{found['PYTHONPATH']}"}


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with real data that lies beside a development checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "checkpoints").is_dir():
        pytest.skip("needs the real data of ../shared, which is not beside this checkout")
    return folder
