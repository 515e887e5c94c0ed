"""Repositories of the hub at one commit, whose weights are read without being downloaded."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import pathlib
import re
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from svdjax.checkpoint import files
from svdjax.checkpoint.lora import CONFIG
from svdjax.checkpoint.ranges import Ranges
from svdjax.checkpoint.source import (
    ALLOWED,
    IGNORED,
    HubId,
    hub_reason,
    hub_remedy,
    locate,
    unavailable,
)
from svdjax.checkpoint.watched import WatchedFile
from svdjax.errors import InputError
from svdjax.streaming import StreamOptions

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_WEIGHTS = "*.safetensors"
_MOST_SMALL = 1 << 30  # bytes of all files that are no weights
_MOST_FILE = 1 << 50
_TIMEOUT = 30.0


class Streaming:
    """Reads hub ids without downloading their weights.

    Attributes:
        commits: Commits by source, where they are given; else that of the revision now.
        ranges: What fetches bytes.
    """

    def __init__(
        self,
        cache_bytes: int = 0,
        commits: Mapping[str, str] = types.MappingProxyType({}),
        check: Callable[[], None] = lambda: None,
    ):
        """Prepares the reading; see `Ranges` for `cache_bytes` and `check`."""
        self.commits = dict(commits)
        self.ranges = Ranges(cache_bytes, check)

    @classmethod
    def of(
        cls,
        options: StreamOptions,
        digests: Mapping[str, Any] = types.MappingProxyType({}),
        check: Callable[[], None] = lambda: None,
    ) -> Streaming | None:
        """The reading that options ask for, of the commits that digests of inputs tell."""
        if not options.stream:
            return None
        return cls(options.stream_cache_bytes, commits(digests), check)

    def snapshot(self, source: str) -> HubSnapshot | None:
        """The repository that a source names, at its commit; None for a directory.

        What is small is downloaded into the hub's cache. So is an adapter, as a whole.

        Raises:
            InputError: It cannot be had, or what the hub tells of it makes no sense.
        """
        place = locate(source)
        if isinstance(place, pathlib.Path):
            return None
        try:
            commit, entries = self._look_up(place)
            adapter = CONFIG in entries and not {files.SINGLE, files.INDEX} & entries.keys()
            weights = {
                name: HubFile(place, commit, name, size, content, self.ranges)
                for name, (size, content) in entries.items()
                if fnmatch.fnmatch(name, _WEIGHTS) and not adapter
            }
            path = self._download(place, commit, entries, weights=adapter)
        except InputError:
            raise
        # The kinds of errors of the hub's client vary with versions.
        except Exception as error:
            raise unavailable(place, error) from None
        return HubSnapshot(place, commit, path, weights, self.ranges)

    def _look_up(self, place: HubId) -> tuple[str, dict[str, tuple[int, str]]]:
        """The commit of a repository, and size and hash of its files by name."""
        import huggingface_hub

        pinned = self.commits.get(place.source)
        info = self.ranges.patiently(
            lambda: huggingface_hub.HfApi().model_info(
                place.repo,
                revision=pinned or place.revision,
                files_metadata=True,
                timeout=_TIMEOUT,
            )
        )
        commit = info.sha
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise InputError(
                f"{place.source}: the hub names the commit {commit!r}; expected a hash"
            )
        if pinned and commit != pinned:
            raise InputError(
                f"{place.source}: asked for commit {pinned}, the hub tells of {commit}"
            )
        entries = {}
        for sibling in info.siblings or ():
            name, size, content = sibling.rfilename, sibling.size, sibling.blob_id
            if sibling.lfs is not None:
                size, content = sibling.lfs.size, sibling.lfs.sha256
            if not isinstance(name, str) or not files.is_bare(name):
                continue  # folders are not read
            if type(size) is not int or not 0 <= size < _MOST_FILE:
                raise InputError(f"{place.source}: the hub tells that {name} has {size!r} bytes")
            if not isinstance(content, str) or not _HASH.fullmatch(content):
                raise InputError(f"{place.source}: the hub tells no hash of {name}: {content!r}")
            entries[name] = (size, content)
        return commit, entries

    def _download(
        self, place: HubId, commit: str, entries: Mapping[str, tuple[int, str]], *, weights: bool
    ) -> pathlib.Path:
        """Directory in the hub's cache, with what is small or, for adapters, all."""
        import huggingface_hub

        ignored = [*IGNORED, *([] if weights else [_WEIGHTS])]
        small = sum(
            size
            for name, (size, _) in entries.items()
            if any(fnmatch.fnmatch(name, pattern) for pattern in ALLOWED)
            and not fnmatch.fnmatch(name, _WEIGHTS)
        )
        if small > _MOST_SMALL:
            raise InputError(
                f"{place.source}: its configuration and tokenizer have {small} bytes; expected at "
                f"most {_MOST_SMALL}"
            )
        path = pathlib.Path(
            self.ranges.patiently(
                lambda: huggingface_hub.snapshot_download(
                    place.repo,
                    revision=commit,
                    allow_patterns=list(ALLOWED),
                    ignore_patterns=ignored,
                )
            )
        )
        if path.name != commit:
            raise InputError(f"{place.source}: asked for commit {commit}, the hub sent {path.name}")
        return path


@dataclass(frozen=True)
class HubSnapshot:
    """A repository at a commit.

    Attributes:
        place: The repository.
        commit: Hash of the commit.
        path: Directory in the hub's cache with what was downloaded.
        weights: Files that are read from the hub, by name.
        ranges: What fetches their bytes.
    """

    place: HubId
    commit: str
    path: pathlib.Path
    weights: Mapping[str, HubFile]
    ranges: Ranges

    @property
    def note(self) -> str:
        """A line for readers of the results."""
        return f"{self.place.source}: read from the hub at commit {self.commit}, not downloaded"

    def fetch_heads(self, names: tuple[str, ...]) -> None:
        """Begins to fetch the headers of files, several at a time."""
        chosen = [self.weights[name] for name in names if name in self.weights]
        self.ranges.fetch_heads([(file.url, file.size) for file in chosen if file.size])


class HubFile(WatchedFile):
    """File of the hub at a commit, which does not change, read by range requests.

    Attributes:
        path: Its name for messages, ``org/name@commit/file``.
        size: Size in bytes.
        identity: Commit, and the hash by which the hub knows the content: SHA-256, or git's of
            files that are stored without LFS.
        url: Its address.
    """

    def __init__(
        self, place: HubId, commit: str, name: str, size: int, content: str, ranges: Ranges
    ):
        """Nothing is fetched yet."""
        import huggingface_hub

        self.path = pathlib.Path(f"{place.repo}@{commit}", name)
        self.size = size
        self.identity = {"commit": commit, "sha256" if len(content) == 64 else "git": content}
        self.url = huggingface_hub.hf_hub_url(place.repo, name, revision=commit)
        self._place, self._commit, self._ranges = place, commit, ranges

    @contextlib.contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """A stream that `fill` does not need: requests are made one by one."""
        yield io.BytesIO()

    def check(self) -> None:
        """Nothing: what lies at a commit stays."""

    def fill(self, stream: BinaryIO, start: int, buffer: memoryview | bytearray) -> None:
        """Fills a buffer with the bytes of the file from byte `start` on.

        Raises:
            InputError: The file ends before, or the hub does not send it.
        """
        view = memoryview(buffer).cast("B")
        if start + len(view) > self.size:
            raise InputError(f"{self.path}: has {self.size} bytes; expected more")
        try:
            self._ranges.fill(self.url, self.size, start, view)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from None
        except Exception as error:
            raise InputError(
                f"{self.path}: cannot be read from the Hugging Face hub ({hub_reason(error)})"
                f"{hub_remedy(error, self._place.repo, self._commit)}; the same command goes on"
            ) from None


def commits(digests: Mapping[str, Any]) -> dict[str, str]:
    """Commits by source that digests of inputs tell, as `input_digest` makes them."""
    by_source = {}
    for source, entries in digests.items():
        for entry in entries.values() if isinstance(entries, Mapping) else ():
            commit = entry.get("commit") if isinstance(entry, Mapping) else None
            if isinstance(commit, str) and _COMMIT.fullmatch(commit):
                by_source[source] = commit
    return by_source
