"""Opening of checkpoints: models, LoRA adapters together with their base, Orbax steps."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable

from svdjax.checkpoint.canonical import canonical
from svdjax.checkpoint.hub import Streaming
from svdjax.checkpoint.lora import CONFIG, read_lora_config
from svdjax.checkpoint.merged import MergedCheckpoint, is_adapter
from svdjax.checkpoint.orbax_step import OrbaxCheckpoint, is_orbax
from svdjax.checkpoint.quantised import dequantised
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.source import resolve
from svdjax.errors import InputError


def open_checkpoint(
    source: str | os.PathLike[str],
    base: Callable[[], Checkpoint | None] = lambda: None,
    streaming: Streaming | None = None,
) -> Checkpoint:
    """Opens a checkpoint without reading any weights.

    Args:
        source: Directory or hub id, as in `resolve`. A PEFT directory with a LoRA adapter opens as
            `MergedCheckpoint`, a step that Orbax wrote as `OrbaxCheckpoint`, a quantised release as
            `DequantisedCheckpoint`.
        base: Returns the base of an adapter, called only where there is one; a merged base stands
            for its own base. Where it returns None, the base is the one that adapter_config.json
            names, if that is a directory or in the hub's cache.
        streaming: How the weights of hub ids are read; None where they are downloaded.

    Raises:
        InputError: There is no such checkpoint, or it is not one that can be read: no or invalid
            config.json, no safetensors (pickles are refused), quantised in a format that is not
            read, an index that names missing files or leads outside the directory; an adapter that
            does not fit its base, or whose base is not known. The message has the remedy.
    """
    snapshot = streaming.snapshot(os.fspath(source)) if streaming else None
    path = snapshot.path if snapshot else resolve(source)
    if is_orbax(path):
        return OrbaxCheckpoint(source, path)
    if not is_adapter(path):
        return canonical(dequantised(Checkpoint(source, path, snapshot)))
    model = base() or _named_base(path)
    return MergedCheckpoint(
        source, path, model.base if isinstance(model, MergedCheckpoint) else model
    )


def open_model(
    source: str | os.PathLike[str], base: str = "", streaming: Streaming | None = None
) -> Checkpoint:
    """Opens a checkpoint of a command that has a flag for the base of adapters.

    Args:
        source: As in `open_checkpoint`.
        base: The flag's value; empty for the base that an adapter names.
        streaming: As in `open_checkpoint`.

    Raises:
        InputError: As `open_checkpoint`.
    """

    def opened() -> Checkpoint | None:
        return open_checkpoint(base, streaming=streaming) if base else None

    return open_checkpoint(source, opened, streaming)


def refuse_unused_base(base: str, checkpoints: Iterable[Checkpoint]) -> None:
    """Raises `InputError` where a base is given and there is no adapter to merge into it."""
    if base and not any(isinstance(each, MergedCheckpoint) for each in checkpoints):
        raise InputError(f"--base={base}: there is no LoRA adapter to merge into it; leave it out")


def _named_base(path: pathlib.Path) -> Checkpoint:
    """Base that an adapter names; nothing is fetched because an adapter says so."""
    base = read_lora_config(path).base
    try:
        if not base:
            raise InputError("none is named")
        return canonical(dequantised(Checkpoint(base, resolve(base, cached=True))))
    except InputError as error:
        raise InputError(
            f"{path / CONFIG}: a LoRA adapter is run on the base that base_model_name_or_path "
            f"names, expected a directory or a hub id that has been fetched ({error}); give the "
            "base by --base, write it there, or merge the adapter with PEFT (merge_and_unload, "
            "save_pretrained)"
        ) from None
