"""What flags, SLURM and Open MPI say about the processes of a sweep."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from svdjax.engine.hosts.request import HostsRequest
from svdjax.engine.hosts.request import requested as as_asked
from svdjax.errors import InputError

SLURM = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
}


@pytest.fixture
def requested(monkeypatch):
    """Calls it in an environment in which only what is given says anything of processes."""

    def call(*arguments: Any, environment: dict[str, str], **more: Any) -> HostsRequest | None:
        with monkeypatch.context() as changed:
            for name in {*SLURM, *OPEN_MPI, "CUDA_VISIBLE_DEVICES", "JAX_COORDINATOR_PORT"}:
                changed.delenv(name, raising=False)
            for name, value in environment.items():
                changed.setenv(name, value)
            return as_asked(*arguments, **more)

    return call


def test_alone_unless_asked(requested):
    assert requested(environment={}) is None
    assert requested(count=1, environment=SLURM) is None
    # A shell in an allocation is one step of one task, a batch script none.
    assert requested(environment=SLURM | {"SLURM_STEP_NUM_TASKS": "1"}) is None
    batch = {key: value for key, value in SLURM.items() if "STEP" not in key}
    assert requested(environment=batch) is None


def test_flags(requested):
    found = requested("node7:1234", 3, 2, 9.0, environment={})
    assert found == HostsRequest("node7", 1234, 3, 2, 9.0)
    assert found is not None
    assert found.address == "node7:1234"
    six = requested("[::1]:1234", 2, 0, environment=SLURM)
    assert six is not None
    assert (six.host, six.address, six.gpus) == ("::1", "[::1]:1234", "")


def test_slurm(requested):
    found = requested(environment=SLURM)
    assert found is not None
    assert (found.host, found.count, found.index) == ("gpu07", 4, 3)
    assert found.port == 65535 - 2**12 + 1 + 17
    assert found.gpus == "1"
    bound = requested(environment=SLURM | {"CUDA_VISIBLE_DEVICES": "0"})
    assert bound is not None
    assert bound.gpus == ""
    four = requested(environment=SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert four is not None
    assert four.gpus == "1,3"
    alone = requested(environment=SLURM | {"SLURM_STEP_TASKS_PER_NODE": "3,1"})
    assert alone is not None
    assert alone.gpus == ""


def test_open_mpi(requested, monkeypatch):
    found = requested(environment=OPEN_MPI)
    assert found is not None
    assert (found.host, found.count, found.index, found.gpus) == ("10.96.0.1", 2, 1, "")
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # jax 0.12 would ask it
    five = {key: value for key, value in OPEN_MPI.items() if "orte" not in key}
    with pytest.raises(InputError, match="give --hosts_coordinator=HOST:PORT"):
        requested(environment=five)
    told = requested("head:99", environment=five)
    assert told == HostsRequest("head", 99, 2, 1)


def test_open_mpi_within_an_allocation_of_slurm(requested):
    # SLURM started a daemon on each of two nodes, and each of these two processes.
    daemon = {
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    }
    two = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    second = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
    found = requested(environment=SLURM | daemon | OPEN_MPI | two | second)
    assert found is not None
    assert (found.host, found.count, found.index, found.gpus) == ("10.96.0.1", 4, 3, "1")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("a:1", None, None), "--hosts_count and --hosts_index missing"),
        ((None, 2, None), "--hosts_coordinator and --hosts_index missing"),
        ((None, None, 0), "--hosts_coordinator and --hosts_count missing"),
        (("a:1", 2, 2), "--hosts_index=2: expected 0 to 1"),
        (("a:1", 2, -1), "--hosts_index=-1: expected 0 to 1"),
        (("a:1", 1, 1), "--hosts_index=1: expected 0 to 0"),
        (("a:1", 0, 0), "--hosts_count=0"),
        (("a", 2, 0), "expected HOST:PORT"),
        (("a:0", 2, 0), "expected HOST:PORT"),
        (("a:70000", 2, 0), "expected HOST:PORT"),
        (("a:1", 2, 0, 0.0), "--hosts_patience=0"),
    ],
)
def test_what_does_not_fit_is_refused(requested, flags, said):
    with pytest.raises(InputError, match=said):
        requested(*flags, environment={})
