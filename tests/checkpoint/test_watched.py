"""Files that must not change, and the header of safetensors against the library's reading of it."""

from __future__ import annotations

import json
import os
import pathlib
import struct

import numpy as np
import pytest
from safetensors import SafetensorError, safe_open

from svdjax.checkpoint import input_digest, open_checkpoint, watched
from svdjax.checkpoint.safetensors_file import Shard
from svdjax.checkpoint.watched import WatchedFile
from svdjax.errors import InputError
from tests.checkpoint.test_reader import INDEX, SINGLE, message
from tests.support import adapters, tiny

CHANGED = "was changed or replaced after it was first read"


def other_content(file: pathlib.Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"abcd")


def other_size(file: pathlib.Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def other_inode(file: pathlib.Path) -> None:
    """The same bytes and time, at most, of another file."""
    stat, new = file.stat(), file.with_name("new")
    new.write_bytes(file.read_bytes())
    os.utime(new, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    new.replace(file)


CHANGES = (other_content, other_size, other_inode)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_every_reading_notices(tmp_path, change):
    path = tiny.make_checkpoint(tmp_path / "c", "llama", shards=2)
    checkpoint = open_checkpoint(path)
    checkpoint.check_unchanged()
    name = checkpoint.names[0]
    file = checkpoint.where(name)
    checkpoint.read(name)
    change(file)
    for call in (
        lambda: checkpoint.read(name),
        lambda: checkpoint.read(name, (0, 1)),
        lambda: input_digest(checkpoint),
        checkpoint.check_unchanged,
    ):
        text = message(call)
        assert text.startswith(f"{file}: ")
        assert CHANGED in text
    other = next(each for each in checkpoint.names if checkpoint.where(each) != file)
    assert checkpoint.read(other).size


@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_files_that_describe_are_watched(tmp_path, name):
    path = tiny.make_checkpoint(tmp_path / "c", "llama", shards=2)
    checkpoint = open_checkpoint(path)
    (path / name).write_text((path / name).read_text() + " ")
    assert str(path / name) in message(checkpoint.check_unchanged)
    assert str(path / name) in message(input_digest, checkpoint)


def test_adapters_are_watched(tmp_path):
    base = tiny.make_checkpoint(tmp_path / "base", "llama")
    path = adapters.make_adapter(tmp_path / "adapter", base)
    checkpoint = open_checkpoint(path, lambda: open_checkpoint(base))
    checkpoint.check_unchanged()
    for file in (base / SINGLE, path / "adapter_model.safetensors", path / "adapter_config.json"):
        content = file.read_bytes()
        file.write_bytes(content)
        assert f"{file}: {CHANGED}" in message(checkpoint.check_unchanged)
        checkpoint = open_checkpoint(path, lambda: open_checkpoint(base))


def test_a_file_that_is_gone_or_no_file(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "llama")
    checkpoint = open_checkpoint(path)
    (path / SINGLE).unlink()
    assert str(path / SINGLE) in message(checkpoint.check_unchanged)
    assert "no such file" in message(checkpoint.read, "model.norm.weight")
    os.mkfifo(path / SINGLE)
    assert "is not a regular file" in message(checkpoint.read, "model.norm.weight")


def test_fuse_may_number_its_files_anew(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    monkeypatch.setattr(watched, "_has_stable_inodes", lambda device: False)
    one = WatchedFile(file)
    other_inode(file)
    one.check()
    other_content(file)
    assert CHANGED in message(one.check)


def test_which_file_systems_keep_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(watched, "_MOUNTS", tmp_path / "mounts")
    kept = watched._has_stable_inodes.__wrapped__
    assert kept(os.makedev(0, 41))
    line = "36 35 {} / /mnt rw,noatime master:1 - {} /dev/root rw"
    kinds = {"8:1": "ext4", "0:41": "fuse.sshfs", "0:42": "nfs4", "0:411": "fuseblk"}
    (tmp_path / "mounts").write_text("\n".join(line.format(*item) for item in kinds.items()))
    found = [kept(os.makedev(*map(int, device.split(":")))) for device in kinds]
    assert found == [True, False, True, False]


def test_nothing_is_mapped_and_nothing_stays_open(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "llama", shards=3)
    with open_checkpoint(path) as checkpoint:
        kept = [checkpoint.read(name) for name in checkpoint.names]
        assert str(path) not in pathlib.Path("/proc/self/maps").read_text()
        links = (os.path.realpath(entry) for entry in os.scandir("/proc/self/fd"))
        assert not [link for link in links if str(path) in link]
    assert kept


def test_rows_as_of_an_array(tmp_path):
    path = tiny.make_checkpoint(tmp_path / "c", "llama")
    checkpoint = open_checkpoint(path)
    name = "model.layers.0.mlp.up_proj.weight"
    whole = checkpoint.read(name)
    for rows in ((0, 0), (5, 5), (7, 3), (0, 10**9), (90, 10**9), (10**9, 10**9 + 1)):
        np.testing.assert_array_equal(checkpoint.read(name, rows), whole[rows[0] : rows[1]])


# --- headers -----------------------------------------------------------------------------------

_SIZES = (0, 1, 2, 3, 4, 8, 16, 24, 32, -1, 1.0, True, None, "4", 1 << 31, 1 << 63, 1 << 64, 10**30)


def random_header(draw: np.random.Generator) -> bytes:
    """A header that is nearly right."""
    fields, at = {}, 0
    for name in "abc"[: draw.integers(0, 4)]:
        shape = [int(n) for n in draw.integers(0, 4, draw.integers(0, 3))]
        code, size = [("F32", 4), ("BF16", 2), ("BOOL", 1)][draw.integers(3)]
        end = at + int(np.prod(shape, dtype=int)) * size
        fields[name] = {"dtype": code, "shape": shape, "data_offsets": [at, end]}
        at = end
    for _ in range(draw.integers(0, 2)):
        odd = _SIZES[draw.integers(len(_SIZES))]
        field = fields.get("abc"[draw.integers(3)])
        if field is None:
            fields["__metadata__"] = [None, {}, {"a": "b"}, {"a": odd}, odd, []][draw.integers(6)]
            continue
        key = list(field)[draw.integers(len(field))]
        values = field[key]
        if isinstance(values, list) and values and draw.integers(2):
            values[draw.integers(len(values))] = odd
        elif draw.integers(2):
            field[key] = odd
        else:
            del field[key]
    text = json.dumps(fields).encode()
    if not draw.integers(4):
        spoilt = bytearray(text)
        spoilt[draw.integers(len(spoilt))] = draw.integers(256)
        text = bytes(spoilt)
    return struct.pack("<Q", len(text)) + text + bytes(max(0, at + int(draw.integers(-1, 2) // 2)))


def ours(file: pathlib.Path) -> tuple[dict[str, np.ndarray] | None, str]:
    """Our reading; None and the refusal where there is none."""
    try:
        shard = Shard(file)
        return {name: shard.read(name) for name in shard.specs}, ""
    except InputError as error:
        return None, str(error)


def test_headers_are_read_as_by_the_library(tmp_path, pytestconfig):
    file, draw, agreed = tmp_path / "x.safetensors", np.random.default_rng(27), [0, 0]
    for _ in range(20_000 if pytestconfig.getoption("--slow") else 1_000):
        content = random_header(draw)
        file.write_bytes(content)
        try:
            with safe_open(file, framework="numpy") as opened:
                wanted = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError, TypeError, OverflowError, AttributeError):
            wanted = None
        found, words = ours(file)
        # What they let pass and we do not: a name twice.
        assert (found is None) == (wanted is None) or "occurs twice" in words, content
        agreed[found is None] += 1
        for name, array in (found or {}).items():
            theirs = (wanted or {})[name]
            assert (array.shape, array.dtype) == (theirs.shape, theirs.dtype)
            assert array.tobytes() == theirs.tobytes()
    assert min(agreed) > 200
