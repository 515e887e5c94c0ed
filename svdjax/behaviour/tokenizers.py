"""The tokenizer beside a checkpoint, read without network and without running its code."""

from __future__ import annotations

import contextlib
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

from svdjax.checkpoint.config import quiet_import
from svdjax.checkpoint.contents import check_tokenizer
from svdjax.errors import InputError, printable

# Where vocabularies may lie whatever the kind of tokenizer says.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "tekken.json")


def load_tokenizer(path: str | os.PathLike[str], purpose: str) -> Any:
    """The tokenizer of a checkpoint; none of the checkpoint's own code is run.

    Args:
        path: The checkpoint's directory.
        purpose: What needs it, for errors.

    Raises:
        InputError: There is none, or it cannot be read.
    """
    directory = pathlib.Path(path)
    # transformers would take a name that is no directory for one on the hub.
    if not directory.is_dir():
        raise InputError(f"{directory}: is not a directory; expected a checkpoint with a tokenizer")
    check_tokenizer(directory)
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            directory, trust_remote_code=False, local_files_only=True
        )
    # It raises whatever the many kinds of tokenizers run into.
    except Exception as error:
        why = printable(" ".join(str(error).split()), 200)
        raise InputError(
            f"{directory}: has no tokenizer that can be read ({why}); {purpose} needs the "
            "tokenizer's files beside the model's"
        ) from None
    # Without its files some kinds load all the same, empty, and lose the text.
    files = sorted(set(tokenizer.vocab_files_names.values()))
    if files and not any((directory / name).is_file() for name in (*files, *_VOCABULARIES)):
        raise InputError(
            f"{directory}: has no tokenizer; expected one of {', '.join(files)}: {purpose} "
            "needs the tokenizer's files beside the model's"
        )
    return tokenizer


@contextlib.contextmanager
def quiet_tokenizers() -> Iterator[None]:
    """transformers' advice is for those who train."""
    with quiet_import():
        from transformers.utils import logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)
