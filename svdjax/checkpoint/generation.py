"""Settings of generation in a checkpoint's files: tokens that end an answer, and penalties."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from svdjax.checkpoint import files, small_json
from svdjax.checkpoint.small_json import shown
from svdjax.errors import InputError

GENERATION = "generation_config.json"
_MOST_TOKENS = 1000
_MOST_TOKEN = 1 << 28  # as many as a vocabulary may have


def end_tokens(home: pathlib.Path) -> set[int]:
    """End tokens (eos) of config.json and generation_config.json; either file may be missing.

    Raises:
        InputError: One of the files is invalid, or its eos_token_id is.
    """
    ends: set[int] = set()
    for name in ("config.json", GENERATION):
        value = _read(home, name).get("eos_token_id")
        what = f"{home / name}: eos_token_id"
        tokens = value if isinstance(value, list) else [] if value is None else [value]
        if len(tokens) > _MOST_TOKENS:
            raise InputError(f"{what}: {len(tokens)} tokens, expected {_MOST_TOKENS} at most")
        for token in tokens:
            if type(token) is not int or token > _MOST_TOKEN:
                raise InputError(
                    f"{what}: expected the number of a token or a list of them, found "
                    f"{shown(token)}; correct or remove it"
                )
            # Some files have -1 for none.
            ends |= {token} if token >= 0 else set()
    return ends


def generation_settings(home: pathlib.Path, names: Sequence[str]) -> dict[str, Any]:
    """Numbers in generation_config.json by name, without those that are absent or null.

    Raises:
        InputError: The file is invalid, or one of them is no number.
    """
    settings = _read(home, GENERATION)
    values = {name: settings[name] for name in names if settings.get(name) is not None}
    for name, value in values.items():
        small_json.number(value, f"{home / GENERATION}: {name}")
    return values


def _read(home: pathlib.Path, name: str) -> dict[str, Any]:
    if not os.path.lexists(home / name):
        return {}
    return small_json.read_object(files.checked_path(home, name))
