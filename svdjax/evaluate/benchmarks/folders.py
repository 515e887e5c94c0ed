"""Folders of benchmarks as their publishers and the hub lay them out: files of a split."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator, Sequence

from svdjax.errors import InputError
from svdjax.evaluate.benchmarks.files import SPLITS, mmlu_file_rows
from svdjax.evaluate.benchmarks.rows import Row
from svdjax.files import one_line

_SUFFIXES = ("parquet", "jsonl", "json", "csv")
# Folders in which the hub keeps the files of a data set that has one part, or one that is usual.
_INNER = ("data", "main", "default", "all", "test")
_ALIASES = {"val": ("val", "validation")}
_MOST = 10_000


def split_files(path: pathlib.Path, splits: Sequence[str], form: str) -> list[pathlib.Path]:
    """The file itself, or the files of a split in a folder of the hub.

    Args:
        path: A file or a folder.
        splits: Names that the split may have.
        form: Form of the records, for errors.

    Raises:
        InputError: The folder cannot be read, or holds no file of the split, or several.
    """
    folder = _directory(path, form)
    if folder is None:
        return [path]
    for inner in (folder, *(folder / name for name in _INNER)):
        if inner.is_dir() and (files := _of_split(inner, splits, form)):
            return files
    raise InputError(
        f"{path}: is a folder without a file of the split {splits[0]} ({splits[0]}-*.parquet, "
        f"{splits[0]}.jsonl, .json or .csv); expected {form}"
    )


def mmlu_rows(path: pathlib.Path, form: str, split: str) -> Iterator[Row]:
    """Rows of a file of MMLU, or of a split's files in a folder, sorted by name.

    Args:
        path: A file of a subject, a folder of such files, one with folders dev and test, or the
            hub's: a folder for each subject, or one of them.
        form: Form of the records, for errors.
        split: Which files to take where there are several kinds.

    Raises:
        InputError: They cannot be read, or are of another form.
    """
    for file, subject in _mmlu_files(path, form, split):
        yield from mmlu_file_rows(file, form, subject)


def _mmlu_files(path: pathlib.Path, form: str, split: str) -> list[tuple[pathlib.Path, str]]:
    """Files with their subjects."""
    folder = _directory(path, form)
    if folder is None:
        return [(path, _subject(path.stem))]
    hub = _of_hub(folder, _ALIASES.get(split, (split,)), form)
    if hub:
        return hub
    folders = [kind for kind in SPLITS if (folder / kind).is_dir()]
    if folders and split not in folders:
        raise InputError(
            f"{path}: holds {', '.join(folders)}, but no folder {split}; choose another split"
        )
    folder = folder / split if folders else folder
    names = [file.name for file in _entries(folder, form)]
    by_split = {kind: [name for name in names if name.endswith(f"_{kind}.csv")] for kind in SPLITS}
    splits = [kind for kind in SPLITS if by_split[kind]]
    # A folder of files of one split is taken whichever split is asked for.
    if split not in splits and (folders or len(splits) != 1):
        raise InputError(f"{folder}: holds no *_{split}.csv; expected {form}")
    chosen = by_split[split if split in splits else splits[0]]
    return [(folder / name, _subject(pathlib.Path(name).stem)) for name in chosen]


def _of_hub(
    folder: pathlib.Path, splits: Sequence[str], form: str
) -> list[tuple[pathlib.Path, str]]:
    """Files of a split in the hub's layout, with their subjects; empty for another layout."""
    if files := _of_split(folder, splits, form):
        return [(file, folder.name) for file in files]
    # "all" holds what the subjects hold.
    inner = [entry for entry in _entries(folder, form) if entry.is_dir()]
    whole = [entry for entry in inner if entry.name == "all"]
    for group in (whole, [entry for entry in inner if entry.name not in ("all", *SPLITS)]):
        files = [(file, entry.name) for entry in group for file in _of_split(entry, splits, form)]
        if files:
            return files
    return []


def _of_split(folder: pathlib.Path, splits: Sequence[str], form: str) -> list[pathlib.Path]:
    """Files of a split of one form, those of several parts in their order."""
    names = [entry.name for entry in _entries(folder, form)]
    kinds = "|".join(map(re.escape, splits))
    for suffix in _SUFFIXES:
        pattern = re.compile(rf"(?:{kinds})(?:[-_.].*)?\.{suffix}")
        if files := [name for name in names if pattern.fullmatch(name)]:
            if len(files) > 1 and not all("-of-" in name for name in files):
                raise InputError(
                    f"{folder}: holds {', '.join(files[:8])}; name one of them; expected {form}"
                )
            return [folder / name for name in files]
    return []


def _subject(stem: str) -> str:
    for kind in SPLITS:
        stem = stem.removesuffix(f"_{kind}")
    return stem


def _directory(path: pathlib.Path, form: str) -> pathlib.Path | None:
    """The path of a folder, expanded; None for anything else."""
    try:
        folder = path.expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); expected {form}") from None


def _entries(folder: pathlib.Path, form: str) -> list[pathlib.Path]:
    """Entries of a folder, sorted by name."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({one_line(error)}); expected {form}") from None
    if len(entries) > _MOST:
        raise InputError(f"{folder}: holds more than {_MOST} files; expected {form}")
    return entries
