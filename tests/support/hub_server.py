"""A Hugging Face hub on loopback: repositories with commits, small files, ranges, and faults."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

TOKEN = "hf_secretSECRETsecretSECRETsecretSECRET"


@dataclasses.dataclass
class Fault:
    """What goes wrong with requests.

    Attributes:
        on: Regular expression that is searched for in "GET /path".
        times: How often; the first so many requests that match.
        after: How many that match go well before.
        status: Status of the answer.
        headers: Of the answer.
        body: Of an answer with a status, or of one that takes the place of the file's bytes.
        cut: Bytes of the content after which the connection is closed.
        delay: Seconds between pieces of `piece` bytes.
        piece: Bytes that are sent at once.
        whole: Whether a range is answered by the whole file.
        size: Size of the whole file that the answer tells.
        shift: How far the range that is told is moved.
    """

    on: str
    times: int = 1
    after: int = 0
    status: int = 0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    cut: int = -1
    delay: float = 0.0
    piece: int = 1 << 12
    whole: bool = False
    size: int = 0
    shift: int = 0


@dataclasses.dataclass(frozen=True)
class Request:
    """What was asked."""

    method: str
    path: str
    range: tuple[int, int] | None
    token: str | None

    @property
    def count(self) -> int:
        """Bytes that were asked for."""
        return 0 if self.range is None else self.range[1] + 1 - self.range[0]


class HubServer:
    """Serves directories as commits of repositories.

    Attributes:
        url: The endpoint.
        log: Requests, in order.
        faults: What goes wrong.
        gated: Repositories that want the token.
        cdn: Server that files of weights are redirected to; None where they are served here.
        edits: Functions that change what the API answers, by a part of the path.
    """

    def __init__(self) -> None:
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self.gated: set[str] = set()
        self.cdn: HubServer | None = None
        self.edits: dict[str, Any] = {}
        self._commits: dict[tuple[str, str], pathlib.Path] = {}
        self._refs: dict[tuple[str, str], str] = {}
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit(self, repo: str, directory: pathlib.Path, revision: str = "main") -> str:
        """Serves a directory as the commit that a revision is at from now on."""
        digest = hashlib.sha1(str(directory).encode())
        for path in sorted(directory.iterdir()):
            digest.update(path.name.encode() + path.read_bytes())
        commit = digest.hexdigest()
        self._commits[repo, commit] = directory
        self._refs[repo, revision] = commit
        return commit

    def asked(self, part: str, method: str = "GET") -> list[Request]:
        """Requests whose paths have a part."""
        with self._lock:
            return [one for one in self.log if part in one.path and one.method == method]

    def note(self, request: Request) -> Fault | None:
        """Logs a request; returns what is to go wrong with it."""
        with self._lock:
            self.log.append(request)
            for fault in self.faults:
                if re.search(fault.on, f"{request.method} {request.path}") and fault.times:
                    if fault.after:
                        fault.after -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None

    def find(self, repo: str, revision: str) -> tuple[str, pathlib.Path] | None:
        """Commit and directory of a revision."""
        commit = self._refs.get((repo, revision), revision)
        directory = self._commits.get((repo, commit))
        return None if directory is None else (commit, directory)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: who asked may have left."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._answer()

    def _answer(self) -> None:
        hub: HubServer = self.server.hub
        path = urllib.parse.urlsplit(self.path).path
        said = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        span = (int(said[1]), int(said[2])) if said else None
        token = self.headers.get("Authorization")
        fault = hub.note(Request(self.command, path, span, token))
        if fault is not None and fault.status:
            return self._send(fault.status, fault.body, fault.headers)
        parts = re.fullmatch(
            r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/.*)?)?", path
        )
        if parts:
            return self._api(hub, parts[1], parts[2] or "revision", parts[3] or "main", token)
        parts = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/([^/]+)", path)
        if parts:
            repo, revision, name = parts.groups()
            return self._file(hub, repo, revision, name, span, token, fault)
        return self._send(404, b"", {})

    def _api(self, hub: HubServer, repo: str, kind: str, revision: str, token: str | None) -> None:
        place = hub.find(repo, urllib.parse.unquote(revision))
        if place is None or (repo in hub.gated and token != f"Bearer {TOKEN}"):
            return self._refuse(hub, repo, place is not None)
        commit, directory = place
        files = {path.name: path.read_bytes() for path in sorted(directory.iterdir())}
        if kind == "tree":
            answer: Any = [_tree_entry(name, data) for name, data in files.items()]
        else:
            siblings = [_sibling(name, data) for name, data in files.items()]
            answer = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
        if kind in hub.edits:
            answer = hub.edits[kind](answer)
        return self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _refuse(self, hub: HubServer, repo: str, exists: bool) -> None:
        code = "GatedRepo" if exists else "RepoNotFound"
        headers = {"X-Error-Code": code, "X-Error-Message": f"{repo}: {code}"}
        return self._send(403 if exists else 404, b"", headers)

    def _file(
        self,
        hub: HubServer,
        repo: str,
        revision: str,
        name: str,
        span: tuple[int, int] | None,
        token: str | None,
        fault: Fault | None,
    ) -> None:
        place = hub.find(repo, urllib.parse.unquote(revision))
        if place is None or (repo in hub.gated and token != f"Bearer {TOKEN}"):
            return self._refuse(hub, repo, place is not None)
        commit, directory = place
        path = directory / urllib.parse.unquote(name)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not path.is_file():
            return self._send(404, b"", headers | {"X-Error-Code": "EntryNotFound"})
        if hub.cdn is not None and name.endswith(".safetensors"):
            hub.cdn._commits[repo, commit] = directory
            target = f"{hub.cdn.url}/{repo}/resolve/{commit}/{name}?Signature=SIGNED"
            return self._send(302, b"", headers | {"Location": target})
        whole = path.stat().st_size
        fault = fault or Fault("")
        if span is not None and not fault.whole:
            status, (first, last) = 206, (span[0], min(span[1], whole - 1))
            with path.open("rb") as stream:
                stream.seek(first)
                data = stream.read(last + 1 - first)
            told = f"{first + fault.shift}-{last + fault.shift}/{fault.size or whole}"
            headers["Content-Range"] = f"bytes {told}"
        else:
            status, data = 200, path.read_bytes()
            headers["ETag"] = f'"{hashlib.sha1(data).hexdigest()}"'
        return self._send(status, fault.body or data, headers | fault.headers, fault)

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], fault: Fault | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        fault = fault or Fault("")
        if fault.cut >= 0:
            self.wfile.write(body[: fault.cut])
            self.close_connection = True
            return
        if not fault.delay:
            self.wfile.write(body)
            return
        for start in range(0, len(body), fault.piece):
            self.wfile.write(body[start : start + fault.piece])
            self.wfile.flush()
            time.sleep(fault.delay)


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data)}
    entry["blobId"] = hashlib.sha1(data).hexdigest()
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 134}
    return entry


def _tree_entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data)}
    entry["oid"] = hashlib.sha1(data).hexdigest()
    if name.endswith(".safetensors"):
        digest = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"size": len(data), "oid": digest, "pointerSize": 134}
    return entry


@contextlib.contextmanager
def serving(cache: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that huggingface_hub asks in this process, with an empty cache of its own."""
    from huggingface_hub import constants

    with HubServer() as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HOME": str(cache),
            "HF_HUB_CACHE": str(cache / "hub"),
            "HF_TOKEN_PATH": str(cache / "token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def environment(hub: HubServer, cache: pathlib.Path) -> dict[str, str]:
    """Variables of processes that ask a hub."""
    return {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache)}
