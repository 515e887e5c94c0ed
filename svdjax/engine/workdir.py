"""The directory of a run: one lock, one record, and what makes it refuse another run."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from svdjax.atomic import plain, remove_leftovers, write_json
from svdjax.engine.store import FORMAT_VERSION
from svdjax.errors import InputError
from svdjax.locks import Lock

_MISSING = "nothing"
_LOCK = ".lock"


class Workdir:
    """A run's directory, held by one flock from `lock` until the process ends or `close`.

    The kernel drops the lock with the process, so a killed run never leaves one behind.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, flag: str = "--workdir", kind: str = "sweep"
    ):
        """`flag` named the directory; `<kind>.json` in it is the record of the run."""
        self._lock: Lock | None = None
        self.flag, self.kind = flag, kind
        try:
            self.path = pathlib.Path(path).expanduser()
            self.existed = self.path.exists()
            directory = self.path.is_dir()
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{self.flag}={path} cannot be used: {reason}") from error
        if self.existed and not directory:
            raise InputError(f"{self.flag}={self.path} is a file: expected a directory to write to")

    @property
    def record(self) -> pathlib.Path:
        """Where the record of the run lies."""
        return self.path / f"{self.kind}.json"

    def lock(self) -> None:
        """Makes the directory and takes its lock.

        Raises:
          InputError: another run holds it, or it cannot be written.
        """
        if self._lock is not None:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = Lock(self.path / _LOCK)
        except OSError as error:
            raise InputError(
                f"{self.flag}={self.path} cannot be written: {error.strerror}"
            ) from error
        try:
            lock.acquire()
        except BlockingIOError as error:
            raise InputError(
                f"{self.flag}={self.path} is in use by another {self.kind}: wait for it, or give "
                "another"
            ) from error
        except OSError as error:
            raise InputError(
                f"{self.flag}={self.path} cannot be locked ({error.strerror}): give one on a file "
                "system that knows flock"
            ) from error
        self._lock = lock

    def check_places(self, pairs: list[str]) -> None:
        """Raises `InputError` if something else lies where results are to be written."""
        folders = [self.path / pair for pair in pairs]
        files = [self.path / "report.html", *(folder / "report.html" for folder in folders)]
        for path in folders:
            if path.exists() and not path.is_dir():
                raise InputError(f"{path} is a file: expected a directory for the pair's results")
        for path in files:
            if path.is_dir():
                raise InputError(f"{path} is a directory: expected nothing there, or a report")

    def close(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def state(self) -> dict[str, Any]:
        """Returns the record of the run, empty if there is none yet.

        Raises:
          InputError: it is not readable or of another format version.
        """
        path = self.record
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not readable ({error}): give another directory") from error
        parts = ("stages", "config", "inputs")
        if not isinstance(state, dict) or not all(
            isinstance(state.get(part, {}), dict) for part in parts
        ):
            raise InputError(f"{path} is not the record of a {self.kind}: give another directory")
        version = state.get("format_version")
        if version != FORMAT_VERSION:
            raise InputError(
                f"{path} has format_version {version!r}, this svdjax writes {FORMAT_VERSION}: "
                "give another directory"
            )
        return state

    def check_there(self, files: Iterable[pathlib.Path] = ()) -> None:
        """Makes sure that the directory is the one that was locked, and that `files` are there.

        Raises:
          InputError: it, or one of them, was deleted or replaced meanwhile.
        """
        same = self._lock is None or self._lock.in_place()
        gone = [path for path in files if not path.is_file()] if same else [self.path]
        if gone:
            raise InputError(
                f"{gone[0]} was deleted or replaced while the {self.kind} was running: expected "
                f"{self.flag} to be left alone; give the same command again"
            )

    def write_state(self, state: dict[str, Any]) -> None:
        """Replaces the record of the run; raises as `check_there` does."""
        self.check_there()
        write_json(self.record, {"format_version": FORMAT_VERSION, **state})

    def clean(self, pairs: list[str]) -> None:
        """Removes the temporary files a killed sweep left, ours only."""
        homes = [self.path, *(self.path / pair for pair in pairs)]
        remove_leftovers(home / part for home in homes for part in ("", "tables", "figures"))

    def refuse_other(self, state: dict[str, Any], key: str, mine: Any, what: str) -> None:
        """Raises `InputError` naming the difference if `state[key]` is not `mine`."""
        if key not in state:
            return
        differences = list(differ(state[key], plain(mine)))
        # Pairs are made of other leaves: what those say already is not said again.
        said = {_change(text) for text in differences if not text.startswith("pairs.")}
        differences = [
            text
            for text in differences
            if not text.startswith("pairs.") or _change(text) not in said
        ]
        if differences:
            shown = "; ".join(differences[:6])
            more = f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
            raise InputError(
                f"{self.flag}={self.path} was made with {what}: {shown}{more}. Give another "
                "directory (or delete this one)"
            )


def differ(there: Any, here: Any, path: str = "") -> Iterator[str]:
    """Yields ``leaf: A there, B here`` for every leaf in which two JSON values differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(set(there) | set(here)):
            name = f"{path}.{key}" if path else key
            yield from differ(there.get(key, _MISSING), here.get(key, _MISSING), name)
    elif there != here:
        yield f"{path}: {_short(there)} there, {_short(here)} here"


def _change(difference: str) -> str:
    """What `differ` says of a leaf, without its name."""
    return difference.partition(": ")[2]


def _short(value: Any) -> str:
    text = value if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:60] + "…"
