"""Bytes of the hub's files by range requests: several at a time, retried, kept where there is room.

The requests are those of huggingface_hub, which finds the token, follows redirections and sends the
token to the hub alone. An answer is believed if it is the range that was asked for, of a file that
has the size which the hub has told.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pathlib
import re
import shutil
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

from svdjax.errors import InputError
from svdjax.locks import own_folder

CONNECTIONS = 8
"""Requests at a time."""

BLOCK = 1 << 18
"""Smaller reads are made by blocks of so many bytes, so that neighbours share a request."""

PIECE = 1 << 24
"""Most bytes of a request."""

_BLOCKS = 128  # that are held in memory, beside the first ones of files
_OPENING_PATIENCE = 60.0  # seconds in which nothing is answered
_READING_PATIENCE = 600.0  # the hub counts requests over five minutes
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 30.0
_TIMEOUT = 30.0
_PASSING = (408, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_FOLDER = "svdjax-stream-"
# HTTP clients of huggingface_hub; each tells of every request, with the signature of its address.
_CLIENTS = ("httpx", "httpx2")

Answer = TypeVar("Answer")


class Ranges:
    """Reader of byte ranges, for all files of a command; safe to use from several threads."""

    def __init__(self, cache_bytes: int = 0, check: Callable[[], None] = lambda: None):
        """Prepares the reader; nothing is fetched or written.

        Args:
            cache_bytes: Most bytes of disk for what may be read again.
            check: Called while an answer is waited for; may raise to stop.
        """
        for client in _CLIENTS:
            if logging.getLogger(client).level == logging.NOTSET:
                logging.getLogger(client).setLevel(logging.WARNING)
        self._check = check
        self._kept = _KeptRanges(cache_bytes)
        self._pool = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="svdjax-hub")
        self._lock = threading.Lock()
        self._lost: Exception | None = None
        self._blocks: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()
        self._most_blocks = _BLOCKS

    def fetch_heads(self, files: list[tuple[str, int]]) -> None:
        """Asks for the first blocks of files, by address and size, which hold their headers."""
        with self._lock:
            self._most_blocks = max(self._most_blocks, len(files) + _BLOCKS)
        for url, size in files:
            self._block(url, size, 0)

    def fill(self, url: str, size: int, start: int, view: memoryview) -> None:
        """Fills a buffer with the bytes of a file from byte `start` on.

        Args:
            url: Address of the file.
            size: Its size; the bytes must lie inside.
            start: First byte.
            view: Buffer of bytes.

        Raises:
            Exception: What the hub's client raises, where it does not pass.
            InputError: The answer is not these bytes.
        """
        stop = start + len(view)
        if not view:
            return
        if len(view) >= BLOCK:
            cuts = range(start, stop, PIECE)
            pieces = [(at, view[at - start : min(at + PIECE, stop) - start]) for at in cuts]
            futures = [self._pool.submit(self._piece, url, size, *piece) for piece in pieces]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                for future in futures:
                    future.cancel()
                wait(futures)  # they write into the caller's buffer
            for future in futures:
                if not future.cancelled():
                    future.result()
            return
        for number in range(start // BLOCK, -(-stop // BLOCK)):
            block, first = self._block(url, size, number).result(), number * BLOCK
            begin, end = max(start, first), min(stop, first + len(block))
            view[begin - start : end - start] = block[begin - first : end - first]

    def patiently(
        self,
        ask: Callable[[], Answer],
        patience: float | None = None,
        progress: Callable[[], int] = lambda: 0,
    ) -> Answer:
        """The answer of the hub, which is asked again where a failure may pass.

        Args:
            ask: Asks, by huggingface_hub; may raise whatever that raises.
            patience: Seconds of failures after which the last one is raised.
            progress: What has been received; where it grows, patience starts anew.
        """
        patience = _OPENING_PATIENCE if patience is None else patience
        pause, received, deadline = _FIRST_WAIT, progress(), time.monotonic() + patience
        while True:
            self._check()
            # Whatever waits for its turn is not asked for any more, nor waited for when we end.
            if self._lost is not None:
                raise self._lost
            try:
                return ask()
            except Exception as error:
                if progress() > received:
                    pause, received, deadline = _FIRST_WAIT, progress(), time.monotonic() + patience
                pause_now = max(pause, _retry_after(error))
                if not _may_pass(error):
                    raise
                if time.monotonic() + pause_now > deadline:
                    self._lost = error
                    raise
            until = time.monotonic() + pause_now
            while (left := until - time.monotonic()) > 0:
                self._check()
                time.sleep(min(left, 0.2))
            pause = min(2 * pause, _LONGEST_WAIT)

    def _block(self, url: str, size: int, number: int) -> Future[bytes]:
        """A block of a file, which may be on its way."""
        key = (url, number)
        with self._lock:
            future = self._blocks.get(key)
            if future is not None and not (future.done() and future.exception()):
                self._blocks.move_to_end(key)
                return future
            future = self._pool.submit(self._fetch_block, url, size, number)
            self._blocks[key] = future
            while len(self._blocks) > self._most_blocks:
                self._blocks.popitem(last=False)
            return future

    def _fetch_block(self, url: str, size: int, number: int) -> bytes:
        start = number * BLOCK
        buffer = bytearray(min(BLOCK, size - start))
        self._piece(url, size, start, memoryview(buffer))
        return bytes(buffer)

    def _piece(self, url: str, size: int, start: int, view: memoryview) -> None:
        key = hashlib.sha256(f"{url} {start} {len(view)}".encode()).hexdigest()
        if not self._kept.read(key, view):
            self._fetch(url, size, start, view)
            self._kept.write(key, view)

    def _fetch(self, url: str, size: int, start: int, view: memoryview) -> None:
        """Fills a buffer by one request, or by several where answers end early."""
        received = 0

        def ask() -> None:
            nonlocal received
            while received < len(view):
                count, error = _receive(url, size, start + received, view[received:])
                received += count  # also of an answer that broke off
                if error is not None:
                    raise error

        self.patiently(ask, _READING_PATIENCE, lambda: received)


class _Empty(Exception):
    """An answer without content."""


def _receive(url: str, size: int, start: int, view: memoryview) -> tuple[int, Exception | None]:
    """Asks once for the bytes from `start` on.

    Returns:
        How many were received, and why no more where the answer is wrong or breaks off.
    """
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    headers = build_hf_headers(library_name="svdjax")
    # Compressed, a little that is received could be much.
    headers |= {"Range": f"bytes={start}-{start + len(view) - 1}", "Accept-Encoding": "identity"}
    received = 0
    request = http_stream_backoff("GET", url, headers=headers, timeout=_TIMEOUT, max_retries=0)
    with request as response:
        # Nothing is raised into the library's generator, which would ask again.
        try:
            hf_raise_for_status(response)
            _check_answer(response, size, start, len(view))
            for chunk in response.iter_raw():
                part = chunk[: len(view) - received]
                view[received : received + len(part)] = part
                received += len(part)
                if received == len(view):
                    break
        except Exception as error:
            return received, error
    return received, None if received else _Empty("an answer without content")


def _check_answer(response: Any, size: int, start: int, count: int) -> None:
    """Raises `InputError` if an answer is not the bytes from `start` on of a file of that size."""
    said = response.headers.get("Content-Range", "")
    match = _RANGE.fullmatch(said.strip())
    if response.status_code != 206 or match is None:
        raise InputError(
            f"asked for a range of bytes, the server answers with status {response.status_code} "
            "and no such range; leave --stream out, so that files are downloaded as a whole"
        )
    first, last, whole = (int(number) for number in match.groups())
    if whole != size:
        raise InputError(
            f"the file has {whole} bytes where the commit says {size}: it was changed or replaced"
        )
    encoding = response.headers.get("Content-Encoding", "identity")
    if first != start or not first <= last < start + count or encoding != "identity":
        raise InputError(
            f"asked for bytes {start} to {start + count - 1}, the server answers with {first} to "
            f"{last} ({encoding})"
        )


def _causes(error: BaseException | None) -> list[BaseException]:
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        error = error.__cause__
    return causes


def _may_pass(error: Exception) -> bool:
    """Whether the same request may be answered later."""
    for cause in _causes(error):
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if status is not None:
            return status in _PASSING
        # httpx's, or that of a later HTTP client of huggingface_hub.
        names = [kind.__name__ for kind in type(cause).__mro__]
        if "TransportError" in names and "UnsupportedProtocol" not in names:
            return True
    return isinstance(error, _Empty)


def _retry_after(error: Exception) -> float:
    """Seconds that an answer says to wait."""
    for cause in _causes(error):
        headers = getattr(getattr(cause, "response", None), "headers", None) or {}
        said = str(headers.get("Retry-After", "")).strip()
        if re.fullmatch(r"\d{1,9}", said):
            return float(said)
    return 0.0


class _KeptRanges:
    """Ranges on disk, of this process alone: the first ones that there is room for.

    They are read in the same order again and again, where keeping the latest ones finds none.
    """

    def __init__(self, most: int):
        self._most, self._used = most, 0
        self._lock = threading.Lock()
        self._whole: dict[str, bool] = {}  # by key; False while it is written
        self._folder: pathlib.Path | None = None

    def read(self, key: str, view: memoryview) -> bool:
        """Fills a buffer, if the range is kept."""
        if not self._whole.get(key) or self._folder is None:
            return False
        try:
            with (self._folder / key).open("rb", buffering=0) as stream:
                return stream.readinto(view) == len(view)
        except OSError:
            return False

    def write(self, key: str, view: memoryview) -> None:
        """Keeps a range, if there is room."""
        with self._lock:
            if key in self._whole or self._used + len(view) > self._most:
                return
            folder = self._place()
            if folder is None:
                return
            self._used += len(view)
            self._whole[key] = False
        try:
            with (folder / key).open("xb") as stream:
                stream.write(view)
            self._whole[key] = True
        except OSError:
            # A full disk, most likely: what was fetched is kept no longer.
            with contextlib.suppress(OSError):
                (folder / key).unlink()
            self._most = 0

    def _place(self) -> pathlib.Path | None:
        """The folder, in the home of huggingface_hub: temporary files may lie in memory."""
        if self._folder is None and self._most:
            from huggingface_hub import constants

            try:
                home = pathlib.Path(constants.HF_HOME)
                home.mkdir(parents=True, exist_ok=True)
                self._folder = own_folder(_FOLDER, home)
            except OSError:
                self._most = 0
                return None
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder
