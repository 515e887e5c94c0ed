"""Files are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import pathlib

import numpy as np
import pytest

from svdjax import atomic
from svdjax.atomic import (
    plain,
    read_npz,
    remove_leftovers,
    write_atomically,
    write_json,
    write_npz,
)
from svdjax.engine.writing import writing_to
from svdjax.errors import InputError


def test_nan_becomes_null_and_numpy_becomes_plain(tmp_path):
    value = {"a": np.float64("nan"), "b": np.arange(2), "c": (1, np.float32(0.5)), "d": np.inf}
    path = write_json(tmp_path / "x.json", value)
    assert json.loads(path.read_text()) == {"a": None, "b": [0, 1], "c": [1, 0.5], "d": None}
    assert plain({"x": np.array([np.nan, 1.0])}) == {"x": [None, 1.0]}


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_json(tmp_path / "x.json", {"old": 1})

    def fail(file):
        file.write(b"half")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="fire"):
        write_atomically(path, fail)
    assert json.loads(path.read_text()) == {"old": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


def test_leftovers_are_removed_but_only_ours(tmp_path):
    (tmp_path / ".svdjax-abc.tmp").write_bytes(b"torn")
    (tmp_path / "theirs.tmp").write_bytes(b"keep")
    assert remove_leftovers([tmp_path]) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["theirs.tmp"]


def test_what_is_being_written_is_no_leftover(tmp_path):
    def write(file):
        file.write(b"half")
        file.flush()
        assert remove_leftovers([tmp_path]) == 0
        file.write(b"whole")

    assert write_atomically(tmp_path / "x", write).read_bytes() == b"halfwhole"
    assert [item.name for item in tmp_path.iterdir()] == ["x"]


def test_a_file_that_is_taken_for_a_leftover_is_made_again(tmp_path, monkeypatch):
    lock, turns = atomic._lock, []

    def late(descriptor):
        turns.append(descriptor)
        if len(turns) == 1:  # before the writer has locked it
            assert remove_leftovers([tmp_path]) == 1
        return lock(descriptor)

    monkeypatch.setattr(atomic, "_lock", late)
    assert json.loads(write_json(tmp_path / "x.json", 1).read_text()) == 1
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


def failing(code: int, directories: bool = True, files: bool = True):
    def fsync(descriptor):
        if directories if pathlib.Path(f"/proc/self/fd/{descriptor}").is_dir() else files:
            raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_does_not_sync_is_told_of_once(code, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(atomic, "_told", [])
    monkeypatch.setattr(os, "fsync", failing(code))
    for number in range(3):
        write_json(tmp_path / f"{number}.json", number)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(tmp_path) in line
    assert "cannot sync" in line


def test_a_directory_that_cannot_be_synced_is_none_for_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(atomic, "_told", [])
    monkeypatch.setattr(os, "fsync", failing(errno.EBADF, files=False))
    write_json(tmp_path / "x.json", 1)
    assert "cannot sync" in capsys.readouterr().err
    monkeypatch.setattr(os, "fsync", failing(errno.EBADF))
    with pytest.raises(OSError, match="Bad file descriptor"):
        write_json(tmp_path / "y.json", 1)
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


def test_whatever_else_a_disk_answers_is_one_line(tmp_path, monkeypatch):
    for code in (errno.ESTALE, errno.ETIMEDOUT, errno.EIO, errno.ENOSPC, errno.ENOTCONN):

        def rename(*_, code=code):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(pathlib.Path, "replace", rename)
            with pytest.raises(InputError, match=os.strerror(code)), writing_to(tmp_path):
                write_json(tmp_path / "x.json", 1)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(code))
            with pytest.raises(InputError, match=os.strerror(code)), writing_to(tmp_path):
                write_json(tmp_path / "x.json", 1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BrokenPipeError), writing_to(tmp_path):
        raise BrokenPipeError(errno.EPIPE, "a fault of ours")


def test_npz_is_the_same_bytes_for_the_same_arrays(tmp_path):
    arrays = {"a/b": np.arange(6.0).reshape(2, 3), "c": np.float64(2)}
    one = write_npz(tmp_path / "1.npz", arrays).read_bytes()
    two = write_npz(tmp_path / "2.npz", arrays).read_bytes()
    assert one == two
    assert (tmp_path / "1.npz").stat().st_mode & 0o044


def test_no_damaged_npz_is_read(tmp_path):
    path = write_npz(tmp_path / "x.npz", {"a": np.arange(100.0), "b": np.arange(3)})
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for cut in (0, 1, 100, 700, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError):
            read_npz(path)
    damaged = 0
    for place in generator.integers(0, len(whole), 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            arrays = read_npz(path)
        except ValueError:
            damaged += 1
            continue
        # Bytes that carry nothing (dates, modes) may flip; the numbers may not.
        if set(arrays) == {"a", "b"}:
            np.testing.assert_array_equal(arrays["a"], np.arange(100.0))
            np.testing.assert_array_equal(arrays["b"], np.arange(3))
    assert damaged > 30
