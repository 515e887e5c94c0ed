"""Which processes a sweep is to have: by flags, or as SLURM or Open MPI started them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from svdjax.errors import InputError

PATIENCE = 300.0
"""Seconds for which processes wait for each other at the start."""


@dataclass(frozen=True)
class HostsRequest:
    """What one process knows about all of them.

    Attributes:
        host: Of process 0, as the others reach it.
        port: On which process 0 listens.
        count: How many processes there are, at least 2.
        index: Which of them this one is.
        patience: Seconds to wait for the others.
        gpus: Which of its machine's GPUs this process takes, as CUDA counts those it may see; empty
            for all of them.
    """

    host: str
    port: int
    count: int
    index: int
    patience: float = PATIENCE
    gpus: str = ""

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def requested(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    patience: float = PATIENCE,
) -> HostsRequest | None:
    """Returns what flags and environment ask for; None where this process is alone.

    What the flags leave open is taken from SLURM or Open MPI, as jax finds it there. A `count` of 1
    makes a process alone wherever it was started.

    Args:
        coordinator: ``HOST:PORT`` of process 0.
        count: Number of processes.
        index: Of this process.
        patience: See `HostsRequest`.

    Raises:
        InputError: What is given does not fit together, or is not enough.
    """
    if patience <= 0:
        raise InputError(f"--hosts_patience={patience:g}: expected more than 0 seconds")
    if count == 1 and index in (None, 0):
        return None
    flags = {"coordinator": coordinator, "count": count, "index": index}
    given = [name for name, value in flags.items() if value is not None]
    if len(given) < 3 and _started():
        where = _detected(coordinator)
        coordinator = coordinator or where["coordinator"]
        count = where["count"] if count is None else count
        index = where["index"] if index is None else index
        gpus = _gpus()
    elif not given:
        return None
    else:
        gpus = ""
    if coordinator is None or count is None or index is None:
        missing = [f"--hosts_{name}" for name in flags if name not in given]
        raise InputError(
            f"{' and '.join(missing)} missing: several processes need --hosts_coordinator=HOST:PORT"
            ", --hosts_count=N and --hosts_index=0 to N-1, or SLURM or Open MPI to start them"
        )
    if count < 1:
        raise InputError(f"--hosts_count={count}: expected 1 or more")
    if not 0 <= index < count:
        raise InputError(
            f"--hosts_index={index}: expected 0 to {count - 1} (--hosts_count={count})"
        )
    host, port = _address(coordinator)
    return HostsRequest(host, port, count, index, patience, gpus)


def _address(coordinator: str) -> tuple[str, int]:
    match = re.fullmatch(r"\[?([^\[\]\s]+?)\]?:(\d{1,5})", coordinator)
    port = int(match[2]) if match else 0
    if match is None or not 0 < port < 65536:
        raise InputError(
            f"--hosts_coordinator={coordinator}: expected HOST:PORT of process 0, with a free port "
            "from 1 to 65535"
        )
    return match[1], port


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.isdecimal() else 0


def _started() -> bool:
    """Whether a launcher has started several processes; says so without loading jax."""
    slurm = "SLURM_STEP_NODELIST" in os.environ and _number("SLURM_STEP_NUM_TASKS") != 1
    return _by_open_mpi() or (slurm and _number("SLURM_NTASKS") > 1)


def _by_open_mpi() -> bool:
    """Asked before SLURM: within an allocation, SLURM's variables are those of its daemons."""
    return _number("OMPI_COMM_WORLD_SIZE") > 1


def _detected(coordinator: str | None) -> dict[str, Any]:
    """Coordinator, count and index as jax finds them."""
    count = index = None
    if _by_open_mpi():
        # Of Open MPI 5 jax asks mpi4py, or nobody.
        count, index = _number("OMPI_COMM_WORLD_SIZE"), _number("OMPI_COMM_WORLD_RANK")
    if coordinator is None or count is None:
        try:
            # What jax.distributed.initialize() asks; jax has no public name for it.
            from jax._src.clusters import ClusterEnv

            coordinator, count, index, _ = ClusterEnv.auto_detect_unset_distributed_params(
                coordinator, count, index, [0], None, 60
            )
        except (RuntimeError, ValueError, LookupError, ImportError, AttributeError, TypeError) as e:
            raise InputError(_nowhere(count, f"{e}")) from e
    if coordinator is None:
        raise InputError(_nowhere(count))
    return {"coordinator": coordinator, "count": count, "index": index}


def _nowhere(count: int | None, why: str = "") -> str:
    """That process 0 cannot be found, and what to do."""
    missing = "=HOST:PORT" if count else ", --hosts_count and --hosts_index"
    return (
        f"the launcher has started {count or 'several'} processes, and jax cannot tell where "
        f"process 0 is{f' ({why})' if why else ''}: give --hosts_coordinator{missing}, or "
        "--hosts_count=1"
    )


def _gpus() -> str:
    """Divides the GPUs of a machine among the processes that were started on it.

    Two processes cannot both have the memory of one. A launcher that binds GPUs to processes lets
    each see its own only; then there are fewer than processes, and nothing is left to divide.
    """
    if _by_open_mpi():
        local = _number("OMPI_COMM_WORLD_LOCAL_RANK")
        count = _number("OMPI_COMM_WORLD_LOCAL_SIZE")
    else:
        local = _number("SLURM_LOCALID")
        by_node = _expanded(os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
        node = _number("SLURM_NODEID")
        count = by_node[node] if node < len(by_node) else 1
    if count <= 1:
        return ""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return str(local)
    total = len([device for device in visible.split(",") if device.strip()])
    return ",".join(str(device) for device in range(local, total, count)) if total >= count else ""


def _expanded(text: str) -> list[int]:
    """SLURM's ``2(x3),1`` as [2, 2, 2, 1]."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts
