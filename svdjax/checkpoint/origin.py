"""What a checkpoint says it was trained from, and whether two were given the wrong way round."""

from __future__ import annotations

import pathlib
import re

from svdjax.checkpoint.reader import Checkpoint

_MOST_CARD = 1 << 16
_FRONT = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
_BASE_MODEL = re.compile(r"^base_model:(.*(?:\n[ \t]*-[ \t].*)*)", re.MULTILINE)


def swapped(base: Checkpoint, post: Checkpoint) -> str:
    """Why base seems to be the post-trained one of the two, in a sentence; empty if it does not.

    A checkpoint names its origin in ``base_model`` of its model card, and, where a trainer saved
    it, in ``_name_or_path`` of config.json; of such names the last part counts.
    """
    names = _names(post) - _names(base)
    evidence = [file for file, origin in _origins(base) if _last(origin) in names]
    if not evidence or any(_last(origin) in _names(base) for _, origin in _origins(post)):
        return ""
    return (
        f"base and post look swapped: {base.path / evidence[0]} says that {base.source} was "
        f"trained from {post.source}; if so, give them the other way round"
    )


def _origins(checkpoint: Checkpoint) -> list[tuple[str, str]]:
    """Files that name an origin, with the names."""
    origins = []
    try:
        with (checkpoint.path / "README.md").open("rb") as file:
            card = file.read(_MOST_CARD).decode("utf-8", "replace")
    except OSError:
        card = ""
    if (front := _FRONT.search(card)) and (found := _BASE_MODEL.search(front[1])):
        words = re.findall(r"[^\s\[\],'\"]+", found[1])
        origins += [("README.md", word) for word in words if word != "-"]
    if isinstance(saved := checkpoint.config.get("_name_or_path"), str) and saved:
        origins.append(("config.json", saved))
    return origins


def _names(checkpoint: Checkpoint) -> set[str]:
    """Names that another checkpoint may know this one by."""
    path = pathlib.Path(checkpoint.path).absolute()
    cached = [part.rpartition("--")[2] for part in path.parts if part.startswith("models--")]
    source = re.sub(r"@[\w./-]+$", "", checkpoint.source)
    return {_last(name) for name in (source, str(path), *cached)} - {""}


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
