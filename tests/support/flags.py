"""XLA's flags for tests: programs run once or twice, so compiling them is what takes the time."""

from __future__ import annotations

import importlib.metadata
import os
import sys

_QUICK = "SVDJAX_TEST_XLA_FLAGS"


def quick_flags() -> str:
    """Flags that make compiling quick, for this process and for those that it starts.

    With ``--slow`` code is generated as it is for users, but for the level of optimisation.
    """
    if _QUICK not in os.environ:
        os.environ[_QUICK] = " ".join(_flags(whole="--slow" in sys.argv))
    return os.environ[_QUICK]


def _flags(*, whole: bool) -> list[str]:
    flags = ["--xla_backend_optimization_level=0"]
    if whole:
        return flags
    flags += [
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
    # Half of the time goes into these; XLA ends the process at a flag that it does not know.
    if importlib.metadata.version("jaxlib").startswith("0.10."):
        flags.append("--xla_cpu_use_fusion_emitters=false")
    return flags
