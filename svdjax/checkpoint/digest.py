"""Fingerprints of input files, by which a sweep notices that it is continued on other weights."""

from __future__ import annotations

import hashlib
import json
import pathlib
from collections.abc import Iterable
from typing import Any

from svdjax.atomic import plain
from svdjax.checkpoint.files import INDEX, SINGLE, one_line
from svdjax.checkpoint.lora import CONFIG, WEIGHTS
from svdjax.checkpoint.merged import MergedCheckpoint
from svdjax.checkpoint.orbax_step import OrbaxCheckpoint
from svdjax.checkpoint.reader import Checkpoint, Shard
from svdjax.errors import InputError

BLOCK = 4096
WHOLE = 64 << 20
"""Files up to this many bytes are hashed entirely."""


def digest_of(value: Any) -> str:
    """SHA-256 of what JSON makes of a value (`svdjax.atomic.plain`), in hexadecimal digits."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()


def input_digest(checkpoint: Checkpoint, *, full: bool = False) -> dict[str, Any]:
    """Fingerprint every file that a result depends on.

    Of each safetensors file: its size, the SHA-256 of its header, and the SHA-256 of sampled
    blocks: the whole file up to 64 MiB, above that the first, middle and last 4 KiB of each
    tensor's data. Training moves nearly every value, so that other weights are noticed; a change
    made elsewhere on purpose is found by the full hash only. config.json and the index are hashed
    whole. Of a merged checkpoint: the files of the base and those of the adapter. Of an Orbax step
    every file, above 64 MiB the first 4 KiB of each MiB.

    Args:
        checkpoint: The checkpoint.
        full: Hash all bytes of all files as well.

    Returns:
        {file name: {"size", "header_sha256", "sampled_sha256"[, "sha256"]}}, JSON-able;
        {"size", "sha256"} for the JSON files, and {"size", "sampled_sha256"[, "sha256"]} for those
        of Orbax.

    Raises:
        InputError: A file cannot be read.
    """
    if isinstance(checkpoint, OrbaxCheckpoint):
        return _orbax_digest(checkpoint, full)
    digests: dict[str, Any] = {}
    paths = [checkpoint.home / "config.json"]
    if checkpoint.listing.name == INDEX:
        paths.append(checkpoint.listing)
    names = checkpoint.files
    if isinstance(checkpoint, MergedCheckpoint):
        paths.append(checkpoint.path / CONFIG)
        names += (WEIGHTS,)
    for path in paths:
        size, whole = hash_file(path)
        digests[path.name] = {"size": size, "sha256": whole}
    for name in names:
        shard = checkpoint.header(name)
        digest = {
            "size": shard.size,
            "header_sha256": hashlib.sha256(shard.header).hexdigest(),
            "sampled_sha256": _hash_samples(shard),
        }
        if full:
            digest["sha256"] = hash_file(shard.path)[1]
        digests[name] = digest
    assert SINGLE in digests or INDEX in digests
    return digests


def _orbax_digest(checkpoint: OrbaxCheckpoint, full: bool) -> dict[str, Any]:
    size, whole = hash_file(checkpoint.settings)
    digests: dict[str, Any] = {checkpoint.settings.name: {"size": size, "sha256": whole}}
    for path in checkpoint.documents():
        size = path.stat().st_size
        blocks = [(at, min(at + BLOCK, size)) for at in range(0, size, 1 << 20)]
        blocks = [(0, size)] if size <= WHOLE else blocks
        digest = {"size": size, "sampled_sha256": _hash_blocks(path, blocks)}
        if full:
            digest["sha256"] = hash_file(path)[1]
        digests[str(path.relative_to(checkpoint.path))] = digest
    return digests


def _hash_samples(shard: Shard) -> str:
    begin = 8 + len(shard.header)
    if shard.size <= WHOLE:
        return _hash_blocks(shard.path, [(0, shard.size)])
    blocks: set[tuple[int, int]] = set()
    for spec in shard.specs.values():
        start, stop = (begin + offset for offset in spec.offsets)
        for where in (start, (start + stop - BLOCK) // 2, stop - BLOCK):
            where = max(where, start)
            blocks.add((where, min(where + BLOCK, stop)))
    return _hash_blocks(shard.path, sorted(blocks))


def _hash_blocks(path: pathlib.Path, blocks: Iterable[tuple[int, int]]) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            for start, stop in blocks:
                stream.seek(start)
                while start < stop and (data := stream.read(min(1 << 20, stop - start))):
                    digest.update(data)
                    start += len(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None
    return digest.hexdigest()


def hash_file(path: pathlib.Path) -> tuple[int, str]:
    """Size and SHA-256 of a file.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
            return stream.tell(), digest.hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)})") from None
