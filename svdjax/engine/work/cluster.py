"""A Ray cluster: joined where ``RAY_ADDRESS`` names one, else started on this machine and ended."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pathlib
import re
import secrets
import shutil
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError, Interrupted, printable
from svdjax.locks import own_folder

_STORE_BYTES = 2**30
"""Of a cluster of our own: what stages share between their units, and results on their way."""

_ANSWER_SECONDS = 10.0
"""In which the head of a cluster has to answer."""


@contextlib.contextmanager
def cluster(stop: StopRequest) -> Iterator[Any]:
    """Ray, connected to the cluster of ``RAY_ADDRESS``, or to one that is started and ended here.

    The latter listens on this machine alone (of Ray's own accord, where it takes itself to be on a
    system without clusters), lets in whoever has its token, and has a folder that nobody else can
    open.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    own = address in ("", "local")
    if own and "ray" in sys.modules and not _token.cache_info().currsize:
        raise InputError(
            "RAY_ADDRESS is not set, and Ray was imported before it could be told of a token: "
            "start a cluster and set it, or leave importing Ray to svdjax"
        )
    chosen = {"RAY_USAGE_STATS_ENABLED": "0"}
    if own:
        chosen |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": _token(),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        }
    with contextlib.ExitStack() as stack:
        with _environment(chosen):
            try:
                import ray
                import ray.exceptions
            except ImportError as error:
                raise InputError(
                    f'--workers=ray needs Ray ({error}): pip install "svdjax[ray]", or leave '
                    "--workers out"
                ) from error
            options: dict[str, Any] = {"address": address}
            if own:
                # Ray opens its own folder to all; the one around it is closed to others.
                folder = own_folder("svdjax-ray-", pathlib.Path("/tmp"))  # short, for sockets
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                options = {
                    "address": "local",
                    "num_cpus": len(os.sched_getaffinity(0)),
                    "object_store_memory": _STORE_BYTES,
                    "include_dashboard": False,
                    "_temp_dir": str(folder / "ray"),
                }
            else:
                _check_answers(address)
            stack.callback(ray.shutdown)
            _start(ray, options, stop)
        yield ray


def _start(ray: Any, options: dict[str, Any], stop: StopRequest) -> None:
    """Starts or joins a cluster.

    Raises:
        InputError: That cannot be done.
        Interrupted: SIGTERM came meanwhile.
    """
    # A process that is only forked to start another is none that jax would have to fear for.
    warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds, each with a reason
        own = options["address"] == "local"
        where = "a cluster on this machine" if own else f"RAY_ADDRESS={options['address']}"
        hint = "" if own else "; where it asks for a token: RAY_AUTH_MODE and RAY_AUTH_TOKEN"
        raise InputError(f"{where}: Ray cannot be used ({describe_error(error)}){hint}") from error
    except SystemExit:  # Ray's answer to SIGTERM
        raise Interrupted(
            f"stopped by SIGTERM (while Ray was started); the same command {stop.after}"
        ) from None
    finally:
        stop.take_signals()


def _check_answers(address: str) -> None:
    """Checks that somebody listens at a ``host:port``; Ray would wait for minutes.

    Raises:
        InputError: Nobody does.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise InputError(f"RAY_ADDRESS={address}: Ray cannot be used ({error})") from error


@functools.cache
def _token() -> str:
    """The token of clusters that this process starts; Ray reads it once."""
    return secrets.token_hex(32)


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment, for as long as a cluster of ours needs them."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def describe_error(error: Exception) -> str:
    """What Ray says in a line: its first, or the last where that is the end of a traceback."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return printable(lines[-1 if "Traceback" in text or "creation task" in text else 0], 300)
