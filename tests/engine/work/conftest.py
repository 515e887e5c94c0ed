"""A Ray cluster of two nodes of one core, with a token, on loopback; as many as a process needs."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

_VARIABLES = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}


@pytest.fixture(scope="session")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes, and a head without cores for workers."""
    os.environ.update(_VARIABLES)  # Ray reads them as it is imported
    Cluster = pytest.importorskip("ray.cluster_utils").Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 2 * 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=1, object_store_memory=2 * 10**8)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()
    for name in _VARIABLES:
        os.environ.pop(name, None)


@pytest.fixture
def cluster(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The cluster, joined by what is run in the test."""
    monkeypatch.setenv("RAY_ADDRESS", nodes.address)
    return nodes
