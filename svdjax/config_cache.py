"""Small results that are kept between processes, because what makes them is slow to load.

Nothing is kept until a command of ours says where (`keep_in`). An entry is JSON, found by a digest
of all that it depends on; one that cannot be read is as good as none. None is ever removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import pathlib
from typing import Any

_LARGEST = 2**20  # bytes; entries have a few kilobytes
_folder: pathlib.Path | None = None


def keep_in(folder: pathlib.Path | None) -> None:
    """Says where entries are, an existing directory; None: nowhere."""
    global _folder
    _folder = folder


def folder() -> pathlib.Path | None:
    """Where entries are; None: nowhere."""
    return _folder


def active() -> bool:
    """Whether anything is kept at all."""
    return _folder is not None


def digest_of(*depends: Any) -> str:
    """Name of an entry.

    Args:
      depends: what JSON knows, and bytes.

    Raises:
      TypeError: one of them is something else.
    """
    digest = hashlib.sha256()
    for one in depends:
        text = one if isinstance(one, bytes) else json.dumps(one, sort_keys=True).encode()
        digest.update(hashlib.sha256(text).digest())
    return digest.hexdigest()


def recall(name: str) -> Any:
    """What was kept under a name; None where there is nothing."""
    if _folder is None:
        return None
    path = _folder / f"{name}.json"
    try:
        if path.stat().st_size > _LARGEST:
            return None
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def keep(name: str, value: Any) -> None:
    """Keeps a value, of what JSON knows; a disk that does not take it is no reason to stop."""
    if _folder is not None:
        # numpy comes with it, too dear for a process that starts itself once more.
        from svdjax.atomic import write_json

        with contextlib.suppress(OSError):
            write_json(_folder / f"{name}.json", value)
