"""Opening whatever a user names: a model, a LoRA adapter together with its base, an Orbax step."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

from svdjax.checkpoint.lora import CONFIG, read_lora_config
from svdjax.checkpoint.merged import MergedCheckpoint, is_adapter
from svdjax.checkpoint.orbax_step import OrbaxCheckpoint, is_orbax
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.source import resolve
from svdjax.errors import InputError


def open_checkpoint(
    source: str | os.PathLike[str], base: Callable[[], Checkpoint | None] = lambda: None
) -> Checkpoint:
    """Open a checkpoint without reading any weights.

    Args:
        source: A directory or hub id, see `resolve`. A PEFT directory with a LoRA adapter opens as
            the model that it makes of its base, see `MergedCheckpoint`; a step that Orbax wrote as
            its parameters under the names that Hugging Face gives them, see `OrbaxCheckpoint`.
        base: Gives the base of an adapter, asked for only where there is one; that of a merged
            one is its own base. None: the base that adapter_config.json names, if that is a
            directory or in the hub's cache.

    Raises:
        InputError: There is no such checkpoint, or it is not one that can be read: no or invalid
            config.json, no safetensors (pickles are refused), a quantised one, an index that
            names missing files or leads outside the directory; an adapter that does not fit its
            base, or whose base is not known. One line, with what to do.
    """
    path = resolve(source)
    if is_orbax(path):
        return OrbaxCheckpoint(source, path)
    if not is_adapter(path):
        return Checkpoint(source, path)
    below = base()
    if isinstance(below, MergedCheckpoint):
        below = below.base
    return MergedCheckpoint(source, path, below or _recorded(path))


def _recorded(path: pathlib.Path) -> Checkpoint:
    """The base that an adapter names; nothing is fetched because an adapter says so."""
    named = read_lora_config(path).base
    try:
        if not named:
            raise InputError("none is named")
        return Checkpoint(named, resolve(named, cached=True))
    except InputError as error:
        raise InputError(
            f"{path / CONFIG}: a LoRA adapter is run on the base that base_model_name_or_path "
            f"names, expected a directory or a hub id that has been fetched ({error}); write it "
            "there, or merge the adapter with PEFT (merge_and_unload, save_pretrained)"
        ) from None
