"""Directory of a run: its lock, its record, and the refusal of a different run."""

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
    """Directory of a run, held by one flock from `lock` until the process ends or `close`.

    The kernel drops the lock with the process, so a killed run never leaves one behind.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, flag: str = "--workdir", kind: str = "sweep"
    ):
        """Checks the path.

        Args:
            path: Directory of the run, which may not exist yet.
            flag: Flag that named the directory, for messages.
            kind: Kind of the run; `<kind>.json` in the directory is its record.

        Raises:
            InputError: The path is a file, or cannot be looked up.
        """
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
        """Path of the record of the run."""
        return self.path / f"{self.kind}.json"

    def lock(self) -> None:
        """Makes the directory and takes its lock.

        Raises:
            InputError: Another run holds it, or it cannot be written.
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
        for path in folders:
            if path.exists() and not path.is_dir():
                raise InputError(f"{path} is a file: expected a directory for the pair's results")
        for path in [folder / "report.html" for folder in (self.path, *folders)]:
            if path.is_dir():
                raise InputError(f"{path} is a directory: expected nothing there, or a report")

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def state(self) -> dict[str, Any]:
        """Record of the run, empty if there is none yet.

        Raises:
            InputError: It is not readable or of another format version.
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
        """Checks that the directory is the one that was locked, and that `files` exist.

        Raises:
            InputError: The directory or one of the files was deleted or replaced meanwhile.
        """
        same = self._lock is None or self._lock.in_place()
        gone = [path for path in files if not path.is_file()] if same else [self.path]
        if gone:
            raise InputError(
                f"{gone[0]} was deleted or replaced while the {self.kind} was running: expected "
                f"{self.flag} to be left alone; give the same command again"
            )

    def write_state(self, state: dict[str, Any]) -> None:
        """Replaces the record of the run; raises `InputError` as `check_there`."""
        self.check_there()
        write_json(self.record, {"format_version": FORMAT_VERSION, **state})

    def clean(self, pairs: list[str]) -> None:
        """Removes temporary files of killed sweeps."""
        folders = [self.path, *(self.path / pair for pair in pairs)]
        remove_leftovers(folder / part for folder in folders for part in ("", "tables", "figures"))

    def refuse_other(self, state: dict[str, Any], key: str, expected: Any, what: str) -> None:
        """Raises `InputError` naming the differences if `state[key]` is not as expected."""
        if key not in state:
            return
        differences = list(differ(state[key], plain(expected)))
        # Pairs follow from other leaves, whose differences are not repeated.
        changes = {_change(text) for text in differences if not text.startswith("pairs.")}
        differences = [
            text
            for text in differences
            if not text.startswith("pairs.") or _change(text) not in changes
        ]
        if differences:
            shown = "; ".join(differences[:6])
            more = f"; and {len(differences) - 6} more" if len(differences) > 6 else ""
            raise InputError(
                f"{self.flag}={self.path} was made with {what}: {shown}{more}. Give another "
                "directory (or delete this one)"
            )


def differ(recorded: Any, expected: Any, path: str = "") -> Iterator[str]:
    """Yields ``leaf: A there, B here`` for every leaf in which two JSON values differ."""
    if isinstance(recorded, dict) and isinstance(expected, dict):
        for key in sorted(set(recorded) | set(expected)):
            name = f"{path}.{key}" if path else key
            yield from differ(recorded.get(key, _MISSING), expected.get(key, _MISSING), name)
    elif recorded != expected:
        yield f"{path}: {_short(recorded)} there, {_short(expected)} here"


def _change(difference: str) -> str:
    """Text of `differ` without the name of the leaf."""
    return difference.partition(": ")[2]


def _short(value: Any) -> str:
    text = value if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:60] + "…"
