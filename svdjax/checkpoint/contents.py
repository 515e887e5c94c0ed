"""Checks of a directory before a library, which follows every link, is told to read it."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator
from typing import Any

from svdjax.checkpoint import files, small_json
from svdjax.errors import InputError

# Not read with a tokenizer; weights are opened by our own reader.
_NOT_READ = (".safetensors", ".md", ".png", ".gguf", ".h5", ".msgpack", ".onnx", *files.PICKLES)
_TEMPLATES = "additional_chat_templates"
# Settings in which transformers looks up the names of further files.
_FILE_LISTS = {
    "tokenizer_config.json": "fast_tokenizer_files",
    "config.json": "configuration_files",
}


def check_tokenizer(directory: pathlib.Path) -> None:
    """Checks all files that transformers may open with a tokenizer.

    Raises:
        InputError: A file is no regular one or a link that leads out of the directory, or
            tokenizer_config.json names one outside.
    """
    for entry in _entries(directory):
        if entry.is_dir(follow_symlinks=False):
            if entry.name == _TEMPLATES:
                for inside in _entries(directory / _TEMPLATES):
                    files.checked_path(directory / _TEMPLATES, inside.name, directory)
        elif not entry.name.endswith(_NOT_READ) and not entry.name.startswith("."):
            files.checked_path(directory, entry.name)
    for name, field in _FILE_LISTS.items():
        if os.path.lexists(directory / name):
            settings = small_json.read_object(files.checked_path(directory, name))
            _check_names(directory, name, settings.get(field))
            if name == "tokenizer_config.json":
                for key in settings:
                    # Some versions open this file before one in the directory.
                    if key.endswith("_file") and os.path.lexists(str(settings[key])):
                        _check_names(directory, name, [settings[key]])


def check_tree(root: pathlib.Path) -> list[pathlib.Path]:
    """Files of a directory and those below, sorted; each is checked.

    Raises:
        InputError: One is no regular file, or a link that leads out of the directory.
    """
    paths = []
    for folder, directories, names in os.walk(root, onerror=_refuse):
        for name in directories:
            path = pathlib.Path(folder, name)
            if path.is_symlink():
                raise InputError(f"{path}: is a link to a directory; expected the files themselves")
        paths += [files.checked_path(pathlib.Path(folder), name, root) for name in names]
    return sorted(paths)


def _entries(directory: pathlib.Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be read ({files.one_line(error)})") from None


def _check_names(directory: pathlib.Path, file: str, names: Any) -> None:
    for name in names if isinstance(names, list) else []:
        if isinstance(name, str) and not files.is_bare(name):
            raise InputError(
                f"{directory / file}: names the file {name!r}; expected files inside the directory"
            )
