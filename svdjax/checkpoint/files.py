"""Files of a checkpoint directory, and which of them may be opened.

A directory is untrusted: nothing outside it is read, pickles are never opened, and no allocation
is larger than a file justifies.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import stat
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from svdjax.checkpoint.small_json import read_object
from svdjax.errors import InputError
from svdjax.files import one_line
from svdjax.files import read_bytes as read_bytes

LINKS = "SVDJAX_FOLLOW_LINKS"
"""Variable of the environment with the directories of `follow_links`, for commands without it."""
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(
    r"(?:model|pytorch_model)(?:\.(?P<before>[\w-]+?))?-(?P<number>\d{5})-of-(?P<count>\d{5})"
    r"(?:\.(?P<after>[\w-]+))?\.safetensors",
    re.ASCII,
)
_VARIANT = re.compile(r"model\.(?P<variant>[\w-]+)\.safetensors", re.ASCII)
_VARIANT_INDEX = re.compile(r"model\.safetensors\.index\.(?P<variant>[\w-]+)\.json", re.ASCII)
_TRAINER = re.compile(r"optimizer|scheduler|scaler|rng_state|training_args|trainer_state")
_MOST_INDEX_BYTES = 64 << 20  # some hundred thousand tensors
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_CONVERT = (
    "convert it where its origin is trusted: in transformers, from_pretrained(...) and "
    "save_pretrained(...) write safetensors"
)


def follow_links(directories: Iterable[str | os.PathLike[str]]) -> None:
    """Lets links of checkpoints lead into some directories, here and in processes begun later.

    Raises:
        InputError: One is no directory.
    """
    roots = []
    for directory in directories:
        path = pathlib.Path(directory).expanduser()
        if not path.is_dir() or os.pathsep in str(path):
            raise InputError(
                f"--follow_links: {directory}: expected directories that links may lead into, such "
                "as that of a shared store"
            )
        roots.append(str(path.resolve()))
    os.environ[LINKS] = os.pathsep.join(roots)


def _link_roots() -> list[pathlib.Path]:
    """Directories that links may lead into, beside that of the checkpoint."""
    return [pathlib.Path(root) for root in os.environ.get(LINKS, "").split(os.pathsep) if root]


def checked_path(
    directory: pathlib.Path, name: str, root: pathlib.Path | None = None
) -> pathlib.Path:
    """Path of a regular file of a checkpoint directory.

    Links may lead elsewhere inside the directory, to the blobs beside a snapshot in the cache of
    the hub, and into the directories of `follow_links`; links that lead out are refused.

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
        why = f": it is a link to {path.readlink()}, which is not there; fetch it again"
        raise InputError(f"{path}: no such file{why * path.is_symlink()}") from None
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
        InputError: It is outside of `root`, of the directories of `follow_links` and, where this
            is a snapshot in the cache of the hub, of the blobs beside it.
        OSError: It does not exist.
    """
    real, allowed = path.resolve(strict=True), [root.resolve(strict=True)]
    if allowed[0].parent.name == "snapshots":
        allowed.append(allowed[0].parent.parent / "blobs")
    allowed += [each.resolve() for each in _link_roots()]
    if not any(real.is_relative_to(directory) for directory in allowed):
        raise InputError(
            f"{path}: is a link to {real}, outside its directory; expected files that lie inside: "
            f"copy it there, or allow links into a directory by --follow_links={real.parent}"
        )
    return real


class Weights(NamedTuple):
    """Files with the weights of a directory.

    Attributes:
        index: File of each tensor, as an index says; empty where there is none.
        files: Names of the safetensors files.
        listing: File that lists the tensors, for messages: the index, or one of the files.
        indexed: Whether `listing` is an index.
        notes: What is not read, or read in spite of its name.
    """

    index: Mapping[str, str]
    files: tuple[str, ...]
    listing: pathlib.Path
    indexed: bool = False
    notes: tuple[str, ...] = ()


def find_weights(
    directory: pathlib.Path,
    usable: Callable[[str, Mapping[str, str]], str],
    remote: Collection[str] = (),
) -> Weights:
    """Files with the weights, without opening any but a single file beside shards.

    As in transformers a single `model.safetensors` goes before an index, unless it is not usable
    and the shards are all there. Shards that no index names, or another one, are read by their
    own numbers; so is a variant (`model.fp16.safetensors`) where there is nothing else.

    Args:
        directory: Directory of the checkpoint.
        usable: Says what is wrong with a single file, beside an index; empty if nothing is.
        remote: Names of weights that lie elsewhere, and are there.

    Raises:
        InputError: There are no safetensors (pickles get a hint how to convert), shards are
            missing, or the index is malformed or leads outside the directory.
    """
    names = sorted({*_entries(directory), *remote})
    weights = _chosen(directory, names, usable, remote)
    told = " ".join(weights.notes)
    unread = [
        name
        for name in names
        if name.endswith(".safetensors") and name not in weights.files and name not in told
    ]
    if not unread:
        return weights
    more = f" and {len(unread) - 1} more are" if len(unread) > 1 else " is"
    return weights._replace(notes=(*weights.notes, f"{directory}: {unread[0]}{more} not read"))


def _chosen(
    directory: pathlib.Path,
    names: Sequence[str],
    usable: Callable[[str, Mapping[str, str]], str],
    remote: Collection[str],
) -> Weights:
    """Files with the weights among those of a directory, as `find_weights`."""
    single, indexed = SINGLE in names, INDEX in names
    if single and indexed:
        try:
            shards = _read_index(directory, INDEX, names, remote)
        except InputError:
            shards = None
        why = usable(SINGLE, shards.index) if shards else ""
        if shards and why:
            note = f"{directory}: {SINGLE} is not read, the shards of {INDEX} are: {why}"
            return shards._replace(notes=(*shards.notes, note))
        _check_there(directory, [SINGLE], remote)
        note = f"{directory}: {SINGLE} is read, {INDEX} is not"
        return Weights({}, (SINGLE,), directory / SINGLE, notes=(note,))
    if single:
        _check_there(directory, [SINGLE], remote)
        return Weights({}, (SINGLE,), directory / SINGLE)
    if indexed:
        return _read_index(directory, INDEX, names, remote)
    return _without_index(directory, names, remote)


def _check_there(directory: pathlib.Path, names: Iterable[str], remote: Collection[str]) -> None:
    """Raises `InputError` as `checked_path`; what lies elsewhere is there."""
    for name in names:
        if name not in remote:
            checked_path(directory, name)


def _entries(directory: pathlib.Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(directory))
    except OSError as error:
        raise InputError(f"{directory}: cannot be read ({one_line(error)})") from None


def _without_index(
    directory: pathlib.Path, names: Sequence[str], remote: Collection[str]
) -> Weights:
    """Shards by their numbers, or the only variant that there is."""
    by_variant: dict[str, list[str]] = {}
    indices: dict[str, str] = {}
    for name in names:
        if shard := _SHARD.fullmatch(name):
            by_variant.setdefault(shard["before"] or shard["after"] or "", []).append(name)
        elif match := _VARIANT.fullmatch(name):
            by_variant.setdefault(match["variant"], []).append(name)
        elif match := _VARIANT_INDEX.fullmatch(name):
            indices[match["variant"]] = name
    variants = [""] if "" in by_variant else sorted({*by_variant, *indices})
    if not variants:
        raise InputError(_no_weights(directory, names))
    if len(variants) > 1:
        shown = ", ".join(variants[:8])
        raise InputError(
            f"{directory}: there is no {SINGLE}, but several variants ({shown}); expected one: "
            "put it into a directory of its own, with config.json"
        )
    (variant,) = variants
    note = f"{directory}: the variant {variant!r} is read, there is no {SINGLE}"
    if variant in indices:
        weights = _read_index(directory, indices[variant], names, remote)
        return weights._replace(notes=(*weights.notes, note))
    files = tuple(by_variant[variant])
    if len(files) == 1 and not _SHARD.fullmatch(files[0]):
        _check_there(directory, files, remote)
        return Weights({}, files, directory / files[0], notes=(note,))
    files = _complete(directory, files, remote)
    notes = (f"{directory}: there is no {INDEX}, the {len(files)} shards are read without",)
    return Weights({}, files, directory / files[0], notes=(*notes, note) if variant else notes)


def _complete(
    directory: pathlib.Path, files: Iterable[str], remote: Collection[str]
) -> tuple[str, ...]:
    """Shards of one set by number; raises `InputError` if it is not whole."""
    by_count: dict[int, dict[int, str]] = {}
    for file in files:
        shard = _SHARD.fullmatch(file)
        assert shard is not None
        by_count.setdefault(int(shard["count"]), {})[int(shard["number"])] = file
    whole = [
        numbered
        for count, numbered in by_count.items()
        if len(numbered) == count and sorted(numbered) == list(range(1, count + 1))
    ]
    if len(whole) != 1:
        told = "; ".join(
            f"{len(numbered)} of {count} shards (such as {next(iter(numbered.values()))})"
            for count, numbered in sorted(by_count.items())[:4]
        )
        raise InputError(
            f"{directory}: there is no {INDEX}, and {told}; expected one whole set of shards: "
            "fetch the others"
        )
    _check_there(directory, whole[0].values(), remote)
    return tuple(whole[0][number] for number in sorted(whole[0]))


def _read_index(
    directory: pathlib.Path, name: str, names: Sequence[str], remote: Collection[str]
) -> Weights:
    """Files that an index names, or the whole set of shards that lies there in their place."""
    path = checked_path(directory, name)
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
    only_missing = True
    for file in files:
        if pathlib.PurePath(file).suffix in PICKLES:
            faults.append(f"{file} is a pickle, which is never opened; {_CONVERT}")
            only_missing = False
        elif not file.endswith(".safetensors"):
            faults.append(f"{file!r} (tensor {first[file]}) is no .safetensors file")
            only_missing = False
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
                only_missing = False
    if faults and only_missing:
        others = [file for file in names if _SHARD.fullmatch(file)]
        with contextlib.suppress(InputError):
            files = _complete(directory, others, remote) if others else files
            if others:
                note = f"{path}: names files that are not there ({faults[0]})"
                note += f"; the {len(files)} shards beside it are read"
                return Weights({}, files, directory / files[0], notes=(note,))
    if faults:
        raise InputError(f"{path}: {listed(faults)}")
    forgotten = _beside(files, names)
    _check_there(directory, forgotten, remote)
    return Weights(index, tuple(sorted({*files, *forgotten})), path, True)


def _beside(files: Iterable[str], names: Iterable[str]) -> list[str]:
    """Shards of the same set that are there too; what they hold, their headers tell."""

    def set_of(name: str) -> tuple[str | None, ...] | None:
        shard = _SHARD.fullmatch(name)
        return shard and (shard["before"], shard["after"], shard["count"])

    sets = {set_of(file) for file in files} - {None}
    return [name for name in names if set_of(name) in sets]


def _no_weights(directory: pathlib.Path, names: Sequence[str]) -> str:
    expected = f"expected {SINGLE} or {INDEX}"
    pickles = [
        name
        for name in names
        if pathlib.PurePath(name).suffix in PICKLES and not _TRAINER.match(name)
    ]
    if "adapter_model.safetensors" in names or "adapter_config.json" in names:
        return (
            f"{directory}: holds a PEFT adapter, {expected}: an adapter's base is to be a model by "
            "itself; merge it first (merge_and_unload, save_pretrained)"
        )
    if any(name.startswith("consolidated") and name.endswith(".safetensors") for name in names):
        return (
            f"{directory}: holds consolidated.safetensors, in Mistral's own layout, whose queries "
            f"and keys are in another order; {expected}, as transformers writes them: fetch these "
            "from the same repository, or convert it (convert_mistral_weights_to_hf.py)"
        )
    if pickles:
        return f"{directory / pickles[0]}: a pickle, which is never opened; {expected}; {_CONVERT}"
    hint = ""
    if any(name.startswith("global_step") for name in names):
        hint = "; DeepSpeed's parts have to be gathered first (zero_to_fp32.py)"
    elif any(name.startswith("checkpoint-") for name in names):
        hint = "; give one of the steps, or all of them to `svdjax trajectory`"
    elif any(_TRAINER.match(name) for name in names):
        hint = "; a trainer that was stopped while it saved leaves it so"
    if "snapshots" in names:
        commits = _entries(directory / "snapshots")[:3]
        shown = " or ".join(str(directory / "snapshots" / commit) for commit in commits)
        hint = f"; a repository in the cache of the hub: give a snapshot, {shown}" * bool(commits)
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{directory}: {expected}, found {', '.join(names[:8]) or 'nothing'}{more}{hint}"


def listed(faults: list[str], most: int = 8) -> str:
    """Faults in one line, the first `most` of them."""
    more = f"; and {len(faults) - most} more" if len(faults) > most else ""
    return "; ".join(faults[:most]) + more
