"""A cache whose entries are damaged, or whose directory cannot be used: a miss or a refusal."""

from __future__ import annotations

import io
import os
import pathlib
import tempfile
import zipfile

import numpy as np
import pytest

from svdjax.checkpoint.cache import FORMAT, ArrayCache, content_key
from svdjax.errors import InputError
from tests.checkpoint.cache_harness import (
    KEYS,
    ROOMY,
    entry,
    form,
    names,
    output,
    right,
    start,
    write,
)

# Damage


def test_damage_is_a_miss(tmp_path):
    assert write(ArrayCache(tmp_path / "whole", ROOMY), 7)
    whole = tmp_path / "whole" / f"svdjax-{KEYS[7]}.npz"
    content = whole.read_bytes()
    cache, arrays = ArrayCache(tmp_path / "hurt", ROOMY), entry(7)
    hurt = cache.directory / whole.name
    random = np.random.default_rng(0)
    # Every byte of the zip's directory and of the headers, and a few of the values.
    headers = [*range(200), *range(len(content) - 700, len(content))]
    harmless = 0
    for place in [*headers, *random.integers(len(content), size=100)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        hurt.write_bytes(damaged)
        found = cache.read(KEYS[7], form(arrays))
        if found is None:
            assert names(cache.directory) == set(), place
        else:  # in what no value depends on, such as the time in a zip's header
            harmless += 1
            assert form(found) == form(arrays)
            assert all((found[name] == arrays[name]).all() for name in arrays), place
    assert harmless < len(headers) // 2
    for damaged in (b"", content[:-1], content[: len(content) // 2], b"null", content[1:]):
        hurt.write_bytes(damaged)
        assert cache.read(KEYS[7], form(arrays)) is None
        assert names(cache.directory) == set()
    assert write(cache, 7)
    assert right(cache, 7)


def test_a_compressed_entry_and_one_that_claims_too_much_are_misses(tmp_path):
    cache, arrays = ArrayCache(tmp_path, ROOMY), entry(7)
    path = tmp_path / f"svdjax-{KEYS[7]}.npz"
    digest = np.frombuffer(bytes.fromhex(content_key(arrays, [FORMAT, KEYS[7]])), np.uint8)
    named = {f"arrays/{name}": array.view("u8") for name, array in arrays.items()}
    np.savez(path, allow_pickle=False, sha256=digest, **named)
    assert right(cache, 7)  # so that only compression makes the difference below
    np.savez_compressed(path, allow_pickle=False, sha256=digest, **named)
    assert not right(cache, 7)
    huge = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        huge, {"descr": "<u8", "fortran_order": False, "shape": (1 << 50,)}
    )
    with zipfile.ZipFile(path, "w") as stored:
        for name in (*named, "sha256"):
            stored.writestr(f"{name}.npy", huge.getvalue())
    assert not right(cache, 7)


@pytest.mark.parametrize("side", ["stored", "expected"])
def test_other_form_is_removed(tmp_path, side):
    cache = ArrayCache(tmp_path, ROOMY)
    u, s = np.ones((2, 3, 3)), np.ones((2, 3))
    for number, other in enumerate(
        [
            {"u": u},
            {"u": u, "s": s, "v": u},
            {"u": u, "t": s},
            {"u": u, "s": s.astype(np.float32)},
            {"u": u.reshape(3, 2, 3), "s": s},
            {"u": u[:1], "s": s},
        ]
    ):
        usual = {"u": u, "s": s}
        stored, expected = (other, usual) if side == "stored" else (usual, other)
        assert cache.write(KEYS[number], stored)
        assert cache.read(KEYS[number], form(expected)) is None
        assert names(tmp_path) == set()


def test_entry_under_another_key_is_removed(tmp_path):
    cache = ArrayCache(tmp_path, ROOMY)
    assert write(cache, 1)
    (tmp_path / f"svdjax-{KEYS[1]}.npz").rename(tmp_path / f"svdjax-{KEYS[2]}.npz")
    assert cache.read(KEYS[2], form(entry(1))) is None
    assert names(tmp_path) == set()


def test_folder_in_the_place_of_an_entry_gives_way(tmp_path):
    cache = ArrayCache(tmp_path, ROOMY)
    for read_first in (True, False):
        path = tmp_path / f"svdjax-{KEYS[1]}.npz"
        path.mkdir()
        (path / "x").write_text("not an entry")
        if read_first:
            assert not right(cache, 1)
            assert names(tmp_path) == set()
        assert write(cache, 1)
        assert right(cache, 1)
        path.unlink()


def test_links_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    assert write(ArrayCache(outside, ROOMY), 1)
    kept = outside / f"svdjax-{KEYS[1]}.npz"
    content = kept.read_bytes()
    cache = ArrayCache(tmp_path / "cache", ROOMY)
    path = cache.directory / kept.name
    path.symlink_to(kept)
    assert not right(cache, 1)  # although what it leads to is right
    assert not path.is_symlink()
    path.symlink_to(kept)
    assert write(cache, 1)  # in the link's place
    assert not path.is_symlink()
    path.unlink()
    path.symlink_to(kept)
    (cache.directory / f".svdjax-cache-{'0' * 16}.tmp").symlink_to(outside)
    ArrayCache(cache.directory, 1)  # evicts, and removes leftovers
    assert names(cache.directory) == set()
    assert kept.read_bytes() == content


def test_entries_of_the_first_format_go(tmp_path):
    """They were folders, and would lie there beyond the bound for ever."""
    old = tmp_path / f"svdjax-{KEYS[3]}"
    (old / "u").mkdir(parents=True)
    (old / "u" / "0.0.0").write_bytes(b"x")
    assert not right(ArrayCache(tmp_path, ROOMY), 3)
    assert names(tmp_path) == set()


def test_nothing_else_in_the_directory_is_touched(tmp_path, entry_bytes):
    others = [
        "notes.txt",
        "svdjax-",
        f"svdjax-{KEYS[1]}.bak",
        "svdjax-" + "A" * 64 + ".npz",
        ".svdjax-x.tmp",
    ]
    for name in others:
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").write_text("kept")
    for number in range(3):
        assert write(ArrayCache(tmp_path, entry_bytes), number)
    assert names(tmp_path) == {*others, f"svdjax-{KEYS[2]}.npz"}
    assert all((tmp_path / name / "kept").read_text() == "kept" for name in others)


# A directory that cannot be used


@pytest.mark.parametrize("place", ["file", "file/below", "nul\0"])
def test_impossible_directory_is_named(tmp_path, place):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match=r"cannot be used as cache") as caught:
        ArrayCache(tmp_path / place, ROOMY)
    assert str(tmp_path / "file") in str(caught.value) or "null" in str(caught.value)
    assert (tmp_path / "file").read_text() == "kept"


def test_full_disk_turns_writing_off(tmp_path):
    """The kernel refuses to let files grow, as on a full disk or at a quota."""
    script = """
cache = ArrayCache(sys.argv[1], 10**9, note=notes.append)
done = [write(cache, 1)]
resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, 2**18))
done += [write(cache, 2, side=300), write(cache, 3), right(cache, 1), right(cache, 2, side=300)]
resource.setrlimit(resource.RLIMIT_FSIZE, (2**12, 2**12))
done += [write(ArrayCache(sys.argv[1], 10**9, note=notes.append), 4)]
print(done, cache.skipped, len(notes), "nothing more is cached" in notes[0])
"""
    expected = "[True, False, False, True, False, False] 2 2 True\n"
    assert output(start(script, tmp_path)) == expected
    assert names(tmp_path) == {f"svdjax-{KEYS[1]}.npz"}


def test_directory_that_may_only_be_read():
    """Root may write everywhere, so the other process becomes somebody else."""
    script = """
cache = ArrayCache(sys.argv[2], 10**9)
write(cache, 1), right(cache, 1)  # loads whatever may lie where others may not read
if os.getuid() == 0:
    os.setuid(65534)
done = []
for directory in (sys.argv[1], sys.argv[2]):
    cache = ArrayCache(directory, 10**9, note=notes.append)
    done += [right(cache, 1), write(cache, 2), right(cache, 9), write(cache, 3)]
    done += [directory in note for note in notes]
print(done)
"""
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder)
        base.chmod(0o755)
        fresh, old = base / "fresh", base / "old"
        old.mkdir()
        assert write(ArrayCache(old, ROOMY), 1)
        before = names(old)
        modes = {path: path.stat().st_mode for path in [*old.rglob("*"), old]}
        for path, mode in modes.items():
            path.chmod(mode & ~0o222 | 0o444)
        process = start(script, old, fresh)
        if os.getuid() != 0:  # then only `old` is closed to the other process
            out = output(process)
            assert out.startswith("[True, False, False, False, True, ")
        else:
            usual = "True, False, False, False"
            assert output(process) == f"[{usual}, True, {usual}, False, True]\n"
        assert names(old) == before
        for path, mode in modes.items():
            path.chmod(mode)
