"""Directories of checkpoints that are named by a local path or by a repository of the hub."""

from __future__ import annotations

import difflib
import os
import pathlib
import re
from dataclasses import dataclass

from svdjax.checkpoint.files import one_line
from svdjax.errors import InputError

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Weights in other formats are not fetched.
ALLOWED = ("*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "merges.txt")
ALLOWED += ("LICENSE*", "README.md")
IGNORED = ("*/*", "consolidated*")
_MOST_REASON = 200  # characters of an error of the hub's client


@dataclass(frozen=True)
class HubId:
    """Repository of the Hugging Face hub.

    Attributes:
        source: As the user gave it, "org/name" or "org/name@revision".
        repo: "org/name".
        revision: Branch, tag or commit; None for the default branch.
    """

    source: str
    repo: str
    revision: str | None


def resolve(source: str | os.PathLike[str], *, cached: bool = False) -> pathlib.Path:
    """Directory of a checkpoint.

    Args:
        source: Directory (`~` is expanded), or id of a repository on the Hugging Face hub,
            "org/name" or "org/name@revision", which is fetched into the hub's cache (safetensors,
            configuration and tokenizer only; offline what is in the cache). A directory goes
            before an id.
        cached: Whether an id is taken from the hub's cache only, and nothing is fetched.

    Raises:
        InputError: There is neither, or the hub cannot be reached.
    """
    place = locate(source)
    if isinstance(place, pathlib.Path):
        return place
    import huggingface_hub  # slow to import: only for hub ids

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                place.repo,
                revision=place.revision,
                allow_patterns=list(ALLOWED),
                ignore_patterns=list(IGNORED),
                local_files_only=cached,
            )
        )
    # The kinds of errors of its HTTP client vary with versions.
    except Exception as error:
        raise unavailable(place, error) from None


def locate(source: str | os.PathLike[str]) -> pathlib.Path | HubId:
    """Directory, or repository of the hub, that a source names; nothing is fetched.

    Raises:
        InputError: It names neither.
    """
    text = os.fspath(source)
    if not text or "\0" in text:
        raise InputError(f"checkpoint {text!r}: expected a directory or a hub id org/name")
    try:
        path = pathlib.Path(text).expanduser()
        if path.is_dir():
            return path
        exists = os.path.lexists(path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"checkpoint {text}: cannot be looked up ({one_line(error)})") from None
    if exists:
        raise InputError(f"checkpoint {text}: is no directory; give the directory that holds it")
    hub = _HUB_ID.fullmatch(text)
    if hub is None or text.startswith((".", "~")):
        raise InputError(f"checkpoint {text}: no such directory{_candidates(path)}")
    return HubId(text, hub["repo"], hub["revision"])


def unavailable(place: HubId, error: Exception) -> InputError:
    """What to tell of a repository that the hub's client cannot get."""
    return InputError(
        f"checkpoint {place.source}: no such directory{_candidates(pathlib.Path(place.source))}, "
        f"and not to be had from the Hugging Face hub either ({hub_reason(error)})"
        f"{hub_remedy(error, place.repo, place.revision)}"
    )


def hub_reason(error: Exception) -> str:
    """An error of the hub's client, in short; tokens and signatures of addresses are left out."""
    from huggingface_hub import get_token

    text = re.sub(r"(https?://)(?:[^\s/@]+@)?([^\s?]+)(?:\?\S*)?", r"\1\2", one_line(error))
    if token := get_token():
        text = text.replace(token, "<token>")
    text = text if len(text) <= _MOST_REASON else text[:_MOST_REASON] + "..."
    return f"{type(error).__name__}: {text}"


def hub_remedy(error: Exception, repo: str, revision: str | None) -> str:
    """What to do about an error of the hub's client, by the name of its class."""
    kind = type(error).__name__
    fetch = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    if kind == "LocalEntryNotFoundError":
        unset = "unset HF_HUB_OFFLINE, or " * bool(os.environ.get("HF_HUB_OFFLINE"))
        return (
            f"; {unset}run `{fetch}` where there is a network, copy the directory that it prints "
            "here, and give its path"
        )
    if kind == "GatedRepoError":
        return f"; accept its terms on https://huggingface.co/{repo}, then `hf auth login`"
    if kind == "RepositoryNotFoundError":
        return "; expected a repository's full name (private ones want `hf auth login` before)"
    return ""


def _candidates(path: pathlib.Path) -> str:
    """Similarly named directories beside the one that does not exist."""
    try:
        siblings = [entry.name for entry in os.scandir(path.parent) if entry.is_dir()]
    except OSError:
        return ""
    close = difflib.get_close_matches(path.name, siblings[:1000], n=3)
    return f"; did you mean {' or '.join(str(path.parent / name) for name in close)}?" * bool(close)
