"""One numerical world for every test: two CPU devices, strict dtypes, warnings as errors."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile

# A test's programs run once or twice; optimising them as for a sweep is what takes the time.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
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

PROGRAMS = {
    "jax_persistent_cache_min_compile_time_secs": 0.2,
    # With a bound jax locks the directory; without one, two writers may meet.
    "jax_compilation_cache_max_size": 4 * 2**30,
}
_FOLDER = "SVDJAX_TEST_PROGRAMS"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --slow."""
    parser.addoption("--slow", action="store_true", help="also run the slowest tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the slowest tests, visibly, unless they are asked for."""
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def pytest_configure(config: pytest.Config) -> None:
    """What one process has compiled, none of this run compiles again."""
    if not hasattr(config, "workerinput"):
        # The workers inherit it.
        os.environ[_FOLDER] = tempfile.mkdtemp(prefix="svdjax-programs-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ[_FOLDER], ignore_errors=True))
    jax.config.update("jax_compilation_cache_dir", os.environ[_FOLDER])
    for name, value in PROGRAMS.items():
        jax.config.update(name, value)


ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of the commands: the tests' compiled programs, and no torch.

    The commands never need it, but transformers loads it where it is installed, which would be
    half of what every process takes.
    """
    site = tmp_path_factory.mktemp("site")
    (site / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    found = harness.environment() | {name.upper(): str(value) for name, value in PROGRAMS.items()}
    found["JAX_COMPILATION_CACHE_DIR"] = os.environ[_FOLDER]
    return found | {"PYTHONPATH": f"{site}{os.pathsep}{found['PYTHONPATH']}"}


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with real data that lies beside a development checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "checkpoints").is_dir():
        pytest.skip("needs the real data of ../shared, which is not beside this checkout")
    return folder
