"""One connection between two processes: JSON objects, a line each."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
import time
from typing import Any

SILENCE = 15.0
"""Seconds without a word after which the other process counts as dead."""

_MOST = 64 * 2**20  # bytes of a line; whoever sends more is not one of us


class Link:
    """Sends and receives messages; sending is safe from several threads."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._sending = threading.Lock()
        self._buffer = bytearray()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(SILENCE)

    def send(self, message: dict[str, Any]) -> bool:
        """Sends a message; False where the other process is gone, which reading shows as well."""
        line = json.dumps(message).encode() + b"\n"
        try:
            with self._sending:
                self._socket.sendall(line)
        except OSError:
            return False
        return True

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Returns the next message, or None where the other side has closed.

        Raises:
            TimeoutError: There was none for so long.
            OSError: The connection is broken.
            ValueError: What came is no message.
        """
        deadline = time.monotonic() + seconds
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > _MOST:
                raise ValueError("a line without end")
            self._wait(deadline)
            chunk = self._socket.recv(1 << 16)
            if not chunk:
                return None
            self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message = json.loads(line)
        if not isinstance(message, dict) or not isinstance(message.get("kind"), str):
            raise ValueError("not a message")
        return message

    def close(self) -> None:
        """Says that nothing more comes; what was sent still arrives."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def release(self) -> None:
        """Closes it in both directions."""
        self.close()
        self._socket.close()

    def _wait(self, deadline: float) -> None:
        readable, _, _ = select.select(
            [self._socket], [], [], max(0.0, deadline - time.monotonic())
        )
        if not readable:
            raise TimeoutError
