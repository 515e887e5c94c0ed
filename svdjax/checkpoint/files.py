"""Files of a checkpoint directory, and which of them may be opened.

A directory is untrusted: nothing outside it is read, pickles are never opened, and no allocation
is larger than a file justifies.
"""

from __future__ import annotations

import os
import pathlib
import stat
from collections.abc import Collection

from svdjax.checkpoint.small_json import read_object
from svdjax.errors import InputError
from svdjax.files import one_line
from svdjax.files import read_bytes as read_bytes

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_MOST_INDEX_BYTES = 64 << 20  # some hundred thousand tensors
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONVERT = (
    "convert it where its origin is trusted: in transformers, from_pretrained(...) and "
    "save_pretrained(...) write safetensors"
)


def checked_path(
    directory: pathlib.Path, name: str, root: pathlib.Path | None = None
) -> pathlib.Path:
    """Path of a regular file of a checkpoint directory.

    Links may lead elsewhere inside the directory, or to the blobs beside a snapshot in the cache
    of the hub; links that lead out are refused.

    Args:
        directory: Directory of the file.
        name: Bare name of the file.
        root: Directory of the checkpoint, where `directory` is a folder inside it.

    Raises:
        InputError: The name is no bare file name, or the file is missing, no regular file, or
            a link that leads out of the checkpoint.
    """
    if not is_bare(name):
        raise InputError(
            f"{directory}: names the file {name!r}; expected a bare file name inside the directory"
        )
    path = directory / name
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            # Only a link can lead out; resolving all would take most of the time of opening
            # thousands of files.
            mode = contained(path, root or directory).stat().st_mode
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: cannot be opened ({one_line(error)})") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path}: is not a regular file")
    return path


def is_bare(name: str) -> bool:
    """Whether a name is that of an entry of a directory, and no path."""
    return bool(name) and name not in (".", "..") and not any(sign in name for sign in "/\\\0")


def contained(path: pathlib.Path, root: pathlib.Path) -> pathlib.Path:
    """Resolved path, links followed.

    Raises:
        InputError: It is outside of `root` and, where this is a snapshot in the cache of the hub,
            outside of the blobs beside it.
        OSError: It does not exist.
    """
    real, allowed = path.resolve(strict=True), [root.resolve(strict=True)]
    if allowed[0].parent.name == "snapshots":
        allowed.append(allowed[0].parent.parent / "blobs")
    if not any(real.is_relative_to(directory) for directory in allowed):
        raise InputError(
            f"{path}: is a link to {real}, outside its directory; expected files that lie inside "
            "(copy it there)"
        )
    return real


def weight_map(
    directory: pathlib.Path, remote: Collection[str] = ()
) -> tuple[dict[str, str] | None, tuple[str, ...]]:
    """File name of each tensor, and all file names, without opening any weights.

    As in transformers a single `model.safetensors` goes before an index.

    Args:
        directory: Directory with the index, or with the weights.
        remote: Names of files that lie elsewhere and are known to be there.

    Returns:
        ({tensor: file name}, or None for a single file whose header must tell; file names).

    Raises:
        InputError: There are no safetensors (pickles get a hint how to convert), or the index is
            malformed, leads outside the directory or names files that are missing.
    """
    if SINGLE in remote:
        return None, (SINGLE,)
    if os.path.lexists(directory / SINGLE):
        checked_path(directory, SINGLE)
        return None, (SINGLE,)
    if not os.path.lexists(directory / INDEX):
        raise InputError(_no_weights(directory))
    path = checked_path(directory, INDEX)
    index = read_object(path, _MOST_INDEX_BYTES).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise InputError(f"{path}: expected a non-empty object under 'weight_map'")
    first: dict[str, str] = {}
    for tensor, file in index.items():
        if not isinstance(file, str):
            raise InputError(f"{path}: tensor {tensor} is in {file!r}; expected a file name")
        first.setdefault(file, tensor)
    files = tuple(sorted(first))
    faults = []
    for file in files:
        if pathlib.PurePath(file).suffix in PICKLES:
            faults.append(f"{file} is a pickle, which is never opened; {_CONVERT}")
        elif not file.endswith(".safetensors"):
            faults.append(f"{file!r} (tensor {first[file]}) is no .safetensors file")
        elif file in remote:
            continue
        # Without an exception for each, which takes seconds for a hundred thousand.
        elif is_bare(file) and not os.path.lexists(shard := os.path.join(directory, file)):  # noqa: PTH118
            faults.append(f"tensor {first[file]}: {shard}: no such file")
        else:
            try:
                checked_path(directory, file)
            except InputError as error:
                faults.append(f"tensor {first[file]}: {error}")
    if faults:
        raise InputError(f"{path}: {listed(faults)}")
    return index, files


def _no_weights(directory: pathlib.Path) -> str:
    expected = f"expected {SINGLE} or {INDEX}"
    try:
        names = sorted(entry.name for entry in os.scandir(directory))
    except OSError as error:
        return f"{directory}: cannot be read ({one_line(error)})"
    pickles = [name for name in names if pathlib.PurePath(name).suffix in PICKLES]
    if "adapter_model.safetensors" in names or "adapter_config.json" in names:
        return (
            f"{directory}: holds a PEFT adapter, {expected}: an adapter's base is to be a model by "
            "itself; merge it first (merge_and_unload, save_pretrained)"
        )
    if pickles:
        return f"{directory / pickles[0]}: a pickle, which is never opened; {expected}; {_CONVERT}"
    return f"{directory}: {expected}, found {', '.join(names[:8]) or 'nothing'}" + (
        f" and {len(names) - 8} more" if len(names) > 8 else ""
    )


def listed(faults: list[str], most: int = 8) -> str:
    """Faults in one line, the first `most` of them."""
    more = f"; and {len(faults) - most} more" if len(faults) > most else ""
    return "; ".join(faults[:most]) + more
