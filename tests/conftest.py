"""One numerical world for every test: two CPU devices, strict dtypes, warnings as errors."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Generator
from typing import Any

from tests.support.flags import quick_flags

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=2",
        quick_flags(),
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Two devices that both call a threaded LAPACK wait for each other most of the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.monitoring
import pytest

from tests.sweep import harness

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

PROGRAMS = {
    # Small programs are by far the most: thousands, at some 20 ms each.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    # A bound would make jax look through the whole directory, locked, whenever it keeps a program.
    "jax_compilation_cache_max_size": -1,
}
MOST_BYTES = 4 * 2**30
"""Kept programs beyond this are thrown away at the start of a run."""

MOST_SECONDS = 15.0
"""CPU time of a test that is not marked slow, without its fixtures and without compiling here; on a
machine that counts to two million in `LOOP_SECONDS`, and more on a slower one."""
LOOP_SECONDS = 0.11

_PROGRAMS = "SVDJAX_TEST_PROGRAMS"
_CACHE = "SVDJAX_TEST_CACHE"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --slow."""
    parser.addoption("--slow", action="store_true", help="also run the slowest tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips the slowest tests, visibly, unless they are asked for."""
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names a case of bytes after its argument: bytes may hold the time, and the processes that
    share the tests must name them alike."""
    return argname if isinstance(val, bytes) else None


def pytest_configure(config: pytest.Config) -> None:
    """Compiles no program that this run or an earlier one has compiled."""
    if not hasattr(config, "workerinput"):
        # The workers inherit both.
        os.environ[_PROGRAMS] = str(_programs(config))
        os.environ[_CACHE] = tempfile.mkdtemp(prefix="svdjax-tests-")
        config.add_cleanup(lambda: shutil.rmtree(os.environ[_CACHE], ignore_errors=True))
    jax.config.update("jax_compilation_cache_dir", os.environ[_PROGRAMS])
    for name, value in PROGRAMS.items():
        jax.config.update(name, value)


def _programs(config: pytest.Config) -> pathlib.Path:
    """Directory of the compiled programs, for this jax on this kind of CPU."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
        cpu = "".join(sorted(set(re.findall(r"^(?:model name|flags)\s*:.*$", text, re.MULTILINE))))
    except OSError:
        cpu = platform.processor()
    versions = [importlib.metadata.version(name) for name in ("jax", "jaxlib")]
    key = hashlib.sha256(f"{versions} {cpu}".encode()).hexdigest()[:16]
    folder = pathlib.Path(config.cache.mkdir(f"programs-{key}"))  # type: ignore[union-attr]
    if sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) > MOST_BYTES:
        shutil.rmtree(folder)
        folder.mkdir()
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fails a test that takes long and is not marked so."""
    before = _own_seconds()
    outcome = yield
    seconds = _own_seconds() - before
    most = MOST_SECONDS * _slowness()
    if seconds > most and not item.get_closest_marker("slow"):
        pytest.fail(
            f"takes {seconds:.0f} s of CPU time, more than {most:.0f}: make it smaller, or "
            "mark it slow (CONTRIBUTING.md says when)"
        )
    return outcome


_compiling: list[float] = []


def _note_compiling(event: str, duration_secs: float, **_: Any) -> None:
    if event.endswith("backend_compile_duration"):
        _compiling.append(duration_secs)


jax.monitoring.register_event_duration_secs_listener(_note_compiling)


def _own_seconds() -> float:
    """CPU time of this process, without compiling, and of the commands it has waited for."""
    times = os.times()
    every = times.user + times.system + times.children_user + times.children_system
    return every - sum(_compiling)


@functools.cache
def _slowness() -> float:
    """How much longer than `LOOP_SECONDS` a loop of Python takes here, at least 1."""
    taken = []
    for _ in range(3):
        began, total = time.process_time(), 0
        for number in range(2_000_000):
            total += number * number
        taken.append(time.process_time() - began)
    return max(1.0, min(taken) / LOOP_SECONDS)


ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def env() -> dict[str, str]:
    """Environment of the commands, with the tests' compiled programs."""
    variables = {name.upper(): str(value) for name, value in PROGRAMS.items()}
    variables["JAX_COMPILATION_CACHE_DIR"] = os.environ[_PROGRAMS]
    return harness.environment() | variables


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with real data that lies beside a development checkout."""
    folder = ROOT.parent / "shared"
    if not (folder / "checkpoints").is_dir():
        pytest.skip("needs the real data of ../shared, which is not beside this checkout")
    return folder
