"""How the processes of a sweep find each other, and make sure that they mean the same sweep."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from typing import Any

from svdjax.engine.hosts.channel import Link
from svdjax.engine.hosts.hosts import Hosts
from svdjax.engine.hosts.request import HostsRequest
from svdjax.engine.signals import StopRequest
from svdjax.engine.workdir import differ
from svdjax.errors import HostLost, InputError, Interrupted, printable

_FORMAT = 1
_LOOK = 0.2
_HELLO = 5.0  # seconds that whoever connects has to say who it is


def meet(request: HostsRequest | None, about: Mapping[str, Any], stop: StopRequest) -> Hosts:
    """Brings the processes together; returns once all of them are there.

    Args:
        request: What this process knows of the others; None where there are none.
        about: JSON-able, what has to be the same for all: config, workdir, versions.
        stop: Of this process.

    Raises:
        InputError: One does not come, means another sweep, or has the place of another; process 0
            cannot listen at its address.
        Interrupted: This process or another was asked to stop meanwhile.
        HostLost: Process 0 died meanwhile.
    """
    if request is None or request.count == 1:
        return Hosts(stop)
    if request.index == 0:
        return _Host(request, about, stop).gather()
    return _join(request, about, stop)


class _Host:
    """Process 0, waiting for the others."""

    def __init__(self, request: HostsRequest, about: Mapping[str, Any], stop: StopRequest):
        self.request, self.about, self.stop = request, dict(about), stop
        self.links: dict[int, Link] = {}
        self.names: dict[int, str] = {}

    def gather(self) -> Hosts:
        request = self.request
        deadline = time.monotonic() + request.patience
        stranger: Link | None = None
        with _listening(request) as door:
            door.settimeout(_LOOK)
            try:
                while len(self.links) < request.count - 1:
                    self.stop.check("while waiting for the other processes")
                    if time.monotonic() > deadline:
                        raise InputError(self._missing())
                    try:
                        connection, _ = door.accept()
                    except TimeoutError:
                        continue
                    stranger = Link(connection)
                    if not self._admit(stranger):
                        stranger.release()
                    stranger = None
            except BaseException as error:
                told = {"kind": "fail", "status": 2, "line": f"process 0: {error}"}
                if isinstance(error, Interrupted):
                    told = {"kind": "stop", "index": 0, "signum": error.status - 128}
                elif not isinstance(error, InputError):
                    told = {"kind": "fail", "status": 3, "line": f"process 0 has ended: {error}"}
                for link in [*self.links.values(), *([stranger] if stranger else [])]:
                    link.send(told)
                    link.release()
                raise
        for link in self.links.values():
            link.send({"kind": "welcome"})
        return Hosts(self.stop, 0, request.count, self.links, self.names)

    def _admit(self, link: Link) -> bool:
        """Takes in who belongs to the sweep; False for whoever else has come."""
        try:
            hello = link.receive(_HELLO)
        except (OSError, ValueError):
            return False
        if hello is None or hello["kind"] != "hello" or hello.get("format") != _FORMAT:
            return False
        index, host = int(hello["index"]), printable(str(hello["host"]), 80)
        if hello["count"] != self.request.count:
            raise InputError(
                f"process {index} ({host}) was started with --hosts_count={hello['count']}, "
                f"process 0 with {self.request.count}"
            )
        if index in self.links or not 0 < index < self.request.count:
            raise InputError(
                f"two processes were started with --hosts_index={index}, one of them on {host}: "
                f"expected 0 to {self.request.count - 1}, each once"
            )
        differences = list(differ(self.about, hello["about"]))
        if differences:
            raise InputError(
                f"process {index} ({host}) was started for another sweep than process 0: "
                f"{'; '.join(differences[:4])}. Give all the same command, but for --hosts_index "
                "(there is what process 0 has)"
            )
        self.links[index], self.names[index] = link, host
        return True

    def _missing(self) -> str:
        missing = [str(i) for i in range(1, self.request.count) if i not in self.links]
        return (
            f"process {', '.join(missing)} of {self.request.count} did not come to "
            f"{self.request.address} within {self.request.patience:g} s; start all processes, or "
            "fewer with another --hosts_count"
        )


def _join(request: HostsRequest, about: Mapping[str, Any], stop: StopRequest) -> Hosts:
    deadline = time.monotonic() + request.patience
    while True:
        stop.check("while waiting for process 0")
        try:
            connection = socket.create_connection((request.host, request.port), timeout=_HELLO)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f"process 0 is not at {request.address} ({error.strerror or error}): waited "
                    f"{request.patience:g} s; see that it runs, and that the address can be reached"
                ) from error
        time.sleep(_LOOK)
    link = Link(connection)
    link.send(
        {
            "kind": "hello",
            "format": _FORMAT,
            "index": request.index,
            "count": request.count,
            "host": socket.gethostname(),
            "about": dict(about),
        }
    )
    try:
        return _welcomed(request, link, stop, deadline)
    except BaseException as error:
        if isinstance(error, Interrupted):
            link.send({"kind": "stop", "index": request.index, "signum": error.status - 128})
        link.release()
        raise


def _welcomed(request: HostsRequest, link: Link, stop: StopRequest, deadline: float) -> Hosts:
    """Waits until process 0 has met all of the others."""
    while True:
        stop.check("while waiting for the other processes")
        try:
            answer = link.receive(_LOOK)
        except TimeoutError:
            # Process 0 tells us when its patience ends; this is for one that has been suspended.
            if time.monotonic() > deadline + request.patience:
                raise InputError(f"{request.address} does not answer: is it svdjax?") from None
            continue
        except (OSError, ValueError):
            answer = None
        if answer is None:
            raise HostLost("process 0 ended before all processes were there; start them again")
        if answer["kind"] == "fail":
            line = str(answer["line"])
            raise InputError(line) if answer["status"] == 2 else HostLost(line)
        if answer["kind"] == "stop":
            raise Interrupted(
                "stopped by a signal to process 0; the same command starts over", answer["signum"]
            )
        if answer["kind"] == "welcome":
            return Hosts(stop, request.index, request.count, {0: link}, {0: request.host})


@contextlib.contextmanager
def _listening(request: HostsRequest):
    """The socket that the others come to; of the machine alone where the address is."""
    local = request.host in ("localhost", "::1") or request.host.startswith("127.")
    try:
        if local:
            family = socket.AF_INET6 if request.host == "::1" else socket.AF_INET
            where = "127.0.0.1" if request.host == "localhost" else request.host
            door = socket.create_server((where, request.port), family=family)
        elif socket.has_dualstack_ipv6():
            door = socket.create_server(
                ("", request.port), family=socket.AF_INET6, dualstack_ipv6=True
            )
        else:
            door = socket.create_server(("", request.port))
    except OSError as error:
        raise InputError(
            f"--hosts_coordinator={request.address}: process 0 cannot listen there "
            f"({error.strerror}); give another port"
        ) from error
    with door:
        yield door
