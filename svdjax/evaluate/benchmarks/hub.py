"""Benchmarks on the Hugging Face hub, through the optional `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from svdjax.errors import InputError, printable
from svdjax.evaluate.benchmarks.rows import Row

PREFIX = "hf:"
_NAME = r"[A-Za-z0-9][\w.-]*"
_FORM = re.compile(rf"hf:({_NAME}/{_NAME})(?:/({_NAME}))?(?::({_NAME}))?", re.ASCII)
# Configs of datasets that need one named, where there is no choice.
_CONFIGS = {"openai/gsm8k": "main", "cais/mmlu": "all", "Idavidrein/gpqa": "gpqa_diamond"}
_SPLITS = {"gpqa": "train", "commonsenseqa": "validation"}
_MMLU_SPLITS = {"val": "validation"}


def hub_rows(path: str, name: str, form: str, split: str) -> Iterator[Row]:
    """Rows of a dataset on the hub, or in its cache.

    Args:
        path: `hf:org/name`, with `/config` and `:split` if they are not the usual ones.
        name: The benchmark.
        form: Form of its records, for errors.
        split: The split of MMLU, unless `path` names one.

    Raises:
        InputError: `path` is not of that form, `datasets` is missing, or it cannot load it.
    """
    match = _FORM.fullmatch(path)
    if match is None:
        raise InputError(f"{path}: expected hf:org/name, hf:org/name/config or either with :split")
    repository, config, named_split = match.groups()
    config = config or _CONFIGS.get(repository)
    usual = _MMLU_SPLITS.get(split, split) if name == "mmlu" else _SPLITS.get(name, "test")
    split = named_split or usual
    for number, values in enumerate(_load(path, repository, config, split), 1):
        yield Row(values, f"{path}, row {number} of {split}", form)


def _load(path: str, repository: str, config: str | None, split: str) -> Iterator[Any]:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    # Not only ImportError: it builds on libraries that fail in their own ways.
    except Exception as error:
        raise InputError(
            f"{path}: datasets cannot be imported ({error}); pip install svdjax[datasets], or give "
            "a file"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise InputError(
            f"{path}: datasets is {datasets.__version__}, and before 4 it could run code of the "
            "hub's; pip install -U svdjax[datasets]"
        )
    try:
        return iter(datasets.load_dataset(repository, config, split=split))
    # It raises whatever network, cache, access rights and file formats run into.
    except Exception as error:
        why = printable(" ".join(f"{type(error).__name__}: {error}".split()), 300)
        raise InputError(
            f"{path}: config {config or '(none)'}, split {split} cannot be loaded ({why}); check "
            "name, network and access, or give a file"
        ) from None
