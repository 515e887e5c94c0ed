"""Directories that appear whole or not at all: written beside their place, synced, renamed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from svdjax.atomic import sync, sync_directory, umask
from svdjax.checkpoint import files
from svdjax.errors import InputError

_COMPANIONS = (
    "tokenizer*",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "chat_template*",
    "generation_config.json",
    "LICEN[SC]E*",
    "NOTICE*",
    "USE_POLICY*",
)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes and syncs a text file."""
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        sync(stream.fileno(), path.parent)


def copy_companions(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies tokenizer, generation config, chat template and licence, where they are."""
    names = {path.name for pattern in _COMPANIONS for path in source.glob(pattern)}
    for name in sorted(names):
        if not (source / name).is_file():
            continue
        copied = target / name
        shutil.copyfile(files.checked_path(source, name), copied)
        with copied.open("rb") as stream:
            sync(stream.fileno(), target)


@contextlib.contextmanager
def staged_directory(
    target: pathlib.Path, overwrite: bool, holds: str = "config.json"
) -> Iterator[pathlib.Path]:
    """A scratch directory that takes `target`'s place when the block ends well, or vanishes.

    Raises:
        InputError: `target` may not be replaced, or something cannot be written.
    """
    try:
        check_target(target, overwrite, holds)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield scratch
            # mkdtemp is private by design; the result has the mode that mkdir would have given.
            scratch.chmod(0o777 & ~umask())
            publish(scratch, target, overwrite, holds=holds)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({files.one_line(error)})") from None


def publish(
    scratch: pathlib.Path,
    target: pathlib.Path,
    overwrite: bool,
    aside: pathlib.Path | None = None,
    holds: str = "config.json",
) -> None:
    """Renames a finished directory to `target`; what `overwrite` allows to replace is removed.

    Until then it waits in `aside`, by default a temporary directory beside it.
    """
    sync_directory(scratch)
    check_target(target, overwrite, holds)
    if target.is_dir() and any(target.iterdir()):
        if aside is None:
            aside = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        target.rename(aside)
        try:
            scratch.rename(target)
        except BaseException:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    else:
        scratch.rename(target)
    sync_directory(target.parent)


def check_target(target: pathlib.Path, overwrite: bool, holds: str = "config.json") -> None:
    """Raises `InputError` if `target` is there and may not be replaced.

    What may be replaced has the file `holds`, by which it is known for one of ours.
    """
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise InputError(f"{target}: exists and is no directory")
    if not any(target.iterdir()):
        return
    if not overwrite:
        raise InputError(
            f"{target}: exists and is not empty; choose another, or allow to overwrite it "
            "(--overwrite)"
        )
    if not (target / holds).is_file():
        kind = "checkpoint" if holds == "config.json" else "adapter"
        raise InputError(f"{target}: holds no {kind} (no {holds}), it is not overwritten")
