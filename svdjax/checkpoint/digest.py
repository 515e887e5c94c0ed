"""Digests of input files, by which a sweep notices that it is continued on other weights."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from svdjax.atomic import plain
from svdjax.checkpoint.lora import WEIGHTS
from svdjax.checkpoint.merged import MergedCheckpoint
from svdjax.checkpoint.orbax_step import OrbaxCheckpoint
from svdjax.checkpoint.reader import Checkpoint
from svdjax.checkpoint.safetensors_file import Shard
from svdjax.checkpoint.watched import WatchedFile

BLOCK = 4096
WHOLE = 64 << 20
"""Files up to this many bytes are hashed entirely."""


def file_digest(file: WatchedFile) -> dict[str, Any]:
    """Size and SHA-256 of a file; raises `InputError` if it has changed or cannot be read."""
    return {"size": file.size, "sha256": file.hash_blocks()}


def digest_of(value: Any) -> str:
    """SHA-256 of a value's JSON (`svdjax.atomic.plain`), in hexadecimal digits."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def input_digest(checkpoint: Checkpoint, *, full: bool = False) -> dict[str, Any]:
    """Digests of every file that a result depends on.

    A safetensors file has its size, the SHA-256 of its header, and the SHA-256 of sampled blocks:
    the whole file up to 64 MiB, above that the first, middle and last 4 KiB of each tensor's data.
    Training moves nearly every value, so that other weights are noticed; a change made elsewhere on
    purpose is found by the full hash only. config.json and the index are hashed whole. A merged
    checkpoint has the files of the base and those of the adapter, an Orbax step every file, above
    64 MiB the first 4 KiB of each MiB.

    Args:
        checkpoint: Checkpoint of any kind.
        full: Whether all bytes of all files are hashed as well.

    Returns:
        {file name: {"size", "header_sha256", "sampled_sha256"[, "sha256"]}}, JSON-able;
        {"size", "sha256"} for the JSON files, and {"size", "sampled_sha256"[, "sha256"]} for those
        of Orbax.

    Raises:
        InputError: A file cannot be read.
    """
    checkpoint = checkpoint.model
    if isinstance(checkpoint, OrbaxCheckpoint):
        return _orbax_digest(checkpoint, full)
    digests: dict[str, Any] = {}
    described, names = [*checkpoint.described], checkpoint.files
    if isinstance(checkpoint, MergedCheckpoint):
        described = [*checkpoint.base.described, *described]
        names += (WEIGHTS,)
    for file in described:
        digests[file.path.name] = file_digest(file)
    for name in names:
        shard = checkpoint.header(name)
        digest = {
            "size": shard.size,
            "header_sha256": hashlib.sha256(shard.header).hexdigest(),
            "sampled_sha256": _hash_samples(shard),
        }
        if full:
            digest["sha256"] = shard.file.hash_blocks()
        digests[name] = digest
    return digests


def _orbax_digest(checkpoint: OrbaxCheckpoint, full: bool) -> dict[str, Any]:
    settings = checkpoint.settings
    digests: dict[str, Any] = {settings.path.name: file_digest(settings)}
    for file in checkpoint.documents:
        size = file.size
        blocks = [(start, min(start + BLOCK, size)) for start in range(0, size, 1 << 20)]
        sampled = file.hash_blocks(None if size <= WHOLE else blocks)
        digest = {"size": size, "sampled_sha256": sampled}
        if full:
            digest["sha256"] = file.hash_blocks()
        digests[str(file.path.relative_to(checkpoint.path))] = digest
    return digests


def _hash_samples(shard: Shard) -> str:
    if shard.size <= WHOLE:
        return shard.file.hash_blocks()
    blocks: set[tuple[int, int]] = set()
    for spec in shard.specs.values():
        start, stop = (8 + len(shard.header) + offset for offset in spec.offsets)
        for offset in (start, (start + stop - BLOCK) // 2, stop - BLOCK):
            first = max(offset, start)
            blocks.add((first, min(first + BLOCK, stop)))
    return shard.file.hash_blocks(sorted(blocks))
