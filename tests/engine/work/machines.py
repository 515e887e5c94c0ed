"""Machines of a cluster as network namespaces of this one, with addresses and cables.

They see each other over a bridge and nothing else. Needs root and iproute2.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping

import pytest

PORT = 6379


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Machines:
    """Machines 1, 2, ...; 1 is to be the head."""

    def __init__(self, count: int, env: Mapping[str, str], logs: pathlib.Path):
        self.env, self.logs = dict(env), logs
        self._prefix = f"svdjax{os.getpid()}"
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        hub = f"{self._prefix}-hub"
        self._spaces = [hub]
        run("ip", "netns", "add", hub)
        run("ip", "-n", hub, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", hub, "link", "set", "bridge", "up")
        for number in range(1, count + 1):
            space, port = self.space(number), f"port{number}"
            run("ip", "netns", "add", space)
            self._spaces.append(space)
            veth = ["type", "veth", "peer", "name", port, "netns", hub]
            run("ip", "-n", space, "link", "add", "eth0", *veth)
            run("ip", "-n", hub, "link", "set", port, "master", "bridge", "up")
            run("ip", "-n", space, "address", "add", f"{self.address(number)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                run("ip", "-n", space, "link", "set", link, "up")

    def space(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    @staticmethod
    def address(number: int) -> str:
        return f"10.77.0.{number}"

    def inside(self, number: int, *command: str, files: bool = True) -> list[str]:
        """A command line on a machine; `files`: with a /tmp/ray of its own."""
        script = f"hostname machine{number}; mkdir -p /tmp/ray; "
        script += "mount -t tmpfs tmpfs /tmp/ray; " if files else ""
        unshare = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [
            *["ip", "netns", "exec", self.space(number), *unshare],
            *["sh", "-c", f'{script} exec "$@"', "sh", *command],
        ]

    def start(self, number: int, cores: int = 1) -> None:
        """Starts Ray on a machine."""
        role = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"]
            if number == 1
            else [f"--address={self.address(1)}:{PORT}"]
        )
        command = [
            *[sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *role],
            *[f"--node-ip-address={self.address(number)}", f"--num-cpus={cores}"],
            "--object-store-memory=200000000",
        ]
        with (self.logs / f"machine{number}.log").open("ab") as log:
            self._nodes[number] = subprocess.Popen(
                self.inside(number, *command),
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self, number: int) -> None:
        """Ends a machine at once, with all its processes."""
        node = self._nodes.pop(number)
        node.kill()
        node.wait()

    def cable(self, number: int, state: str) -> None:
        """Pulls or plugs in the cable of a machine: ``down`` or ``up``."""
        hub = f"{self._prefix}-hub"
        run("ip", "-n", hub, "link", "set", f"port{number}", state)

    def sweep(self, number: int, *arguments: str) -> subprocess.Popen[str]:
        """Starts a sweep on a machine of the cluster."""
        node = self._nodes[number]
        # The driver needs the files of its node's Ray.
        (child,) = pathlib.Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
        command = [sys.executable, "-m", "svdjax.sweep", *arguments, "--workers=ray"]
        return subprocess.Popen(
            ["nsenter", f"--target={child}", "--all", f"--wdns={pathlib.Path.cwd()}", *command],
            env=self.env | {"RAY_ADDRESS": f"{self.address(1)}:{PORT}"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def close(self) -> None:
        for number in list(self._nodes):
            self.kill(number)
        for space in self._spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False)


@contextlib.contextmanager
def machines(count: int, env: Mapping[str, str], logs: pathlib.Path) -> Iterator[Machines]:
    """So many machines, none of them started; skips the test where there cannot be any."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("nsenter"):
        pytest.skip("namespaces need root and iproute2")
    try:
        made = Machines(count, env, logs)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no namespaces here: {error.stderr!r}")
    try:
        yield made
    finally:
        made.close()


def wait_for(path: pathlib.Path, text: str, seconds: float = 60) -> None:
    """Waits until a log says something."""
    deadline = time.monotonic() + seconds
    while not (path.is_file() and text in path.read_text()):
        assert time.monotonic() < deadline, path.read_text() if path.is_file() else path
        time.sleep(0.1)
