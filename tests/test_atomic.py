"""Files are whole or not there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from svdjax.atomic import plain, read_npz, remove_leftovers, write_atomically, write_json, write_npz


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
