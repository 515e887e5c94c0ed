"""The cache on disk: right values or a miss, within its bound."""

from __future__ import annotations

import pathlib
import tracemalloc

import ml_dtypes
import numpy as np
import pytest

from svdjax.checkpoint.cache import ArrayCache, content_key
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

# Keys


def test_key_is_that_of_the_content_not_of_its_layout():
    stored = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(ml_dtypes.bfloat16)
    view = stored.transpose(0, 2, 1)
    key = content_key({"w": view}, {"version": 1})
    assert key == content_key({"w": view.copy(order="C")}, {"version": 1})
    assert key == content_key({"w": view.copy(order="F")}, {"version": 1})
    assert key == content_key({"w": np.repeat(view, 2, axis=0)[::2]}, {"version": 1})
    assert len(key) == 64
    numbers = np.arange(6.0).reshape(2, 3)
    assert content_key({"w": numbers}, 0) == content_key({"w": numbers.astype(">f8")}, 0)
    assert content_key({"a": numbers, "b": view}, 0) == content_key({"b": view, "a": numbers}, 0)


def test_key_changes_with_every_value_name_dtype_shape_and_about():
    array = np.zeros((2, 3, 4), np.float32)
    flipped, negative = array.copy(), array.copy()
    flipped[1, 2, 3] = np.nextafter(np.float32(0), np.float32(1))
    negative[0, 0, 0] = -0.0
    keys = [
        content_key({"w": array}, {"a": 1}),
        content_key({"w": flipped}, {"a": 1}),
        content_key({"w": negative}, {"a": 1}),
        content_key({"v": array}, {"a": 1}),
        content_key({"w": array}, {"a": 2}),
        content_key({"w": array}, {"b": 1}),
        content_key({"w": array, "v": array}, {"a": 1}),
        content_key({"w": array.view(np.int32)}, {"a": 1}),
        content_key({"w": array.reshape(3, 2, 4)}, {"a": 1}),
        content_key({"w": array.reshape(-1)}, {"a": 1}),
        content_key({"w": array[:0]}, {"a": 1}),
        content_key({}, {"a": 1}),
    ]
    bits = np.zeros((1, 2), np.uint16)
    keys += [content_key({"w": bits.view(kind)}, 0) for kind in (np.float16, ml_dtypes.bfloat16)]
    assert len(set(keys)) == len(keys)


def test_key_copies_one_layer_at_a_time():
    view = np.zeros((16, 200, 300), np.float32).transpose(0, 2, 1)
    tracemalloc.start()
    content_key({"w": view}, None)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3 * view[0].nbytes  # of 16


def test_key_of_what_has_none():
    with pytest.raises(TypeError, match="objects"):
        content_key({"w": np.array([None])}, 0)
    with pytest.raises(TypeError):
        content_key({}, pathlib.Path("x"))
    with pytest.raises(ValueError):
        content_key({}, float("nan"))


# Values


@pytest.mark.parametrize("dtype", [np.float64, np.float32, ml_dtypes.bfloat16])
def test_round_trip(tmp_path, dtype):
    random = np.random.default_rng(0)
    arrays = {
        "u": random.standard_normal((3, 6, 4)).astype(dtype),
        "s": np.array([[np.nan, np.inf, -0.0, 5e-324, 1]] * 3).astype(dtype),
        "v": random.standard_normal((3, 4, 5)).astype(dtype).transpose(0, 2, 1),
        "file": np.zeros((2, 2), dtype),  # a keyword of numpy.savez, and no trouble
        "negative_zeros": np.full((2, 2), -0.0, dtype),
    }
    key = content_key(arrays, "factors")
    cache = ArrayCache(tmp_path / "new" / "folder", ROOMY)
    assert cache.read(key, form(arrays)) is None
    assert cache.write(key, arrays)
    for opened in (cache, ArrayCache(cache.directory, ROOMY)):
        found = opened.read(key, form(arrays))
        assert found is not None
        assert form(found) == form(arrays)
        for name, array in arrays.items():
            assert found[name].tobytes() == array.tobytes()
            assert found[name].flags.writeable
            assert found[name].flags.c_contiguous
    assert (cache.hits, cache.misses, cache.skipped) == (1, 1, 0)


def test_entry_serves_a_process_with_other_devices(tmp_path):
    assert write(ArrayCache(tmp_path, ROOMY), 5)
    script = "import jax; print(len(jax.devices()), right(ArrayCache(sys.argv[1], 10**9), 5))"
    flags = "--xla_force_host_platform_device_count=3"
    assert output(start(script, tmp_path, XLA_FLAGS=flags)) == "3 True\n"


def test_writing_what_is_there_already_keeps_it(tmp_path):
    cache = ArrayCache(tmp_path, ROOMY)
    assert write(cache, 1)
    before = (tmp_path / f"svdjax-{KEYS[1]}.npz").stat().st_ino
    assert write(ArrayCache(tmp_path, ROOMY), 1)
    assert (tmp_path / f"svdjax-{KEYS[1]}.npz").stat().st_ino == before


def test_what_cannot_be_stored_is_refused_at_once(tmp_path):
    cache = ArrayCache(tmp_path, ROOMY)
    good = np.ones(3)
    for key in ("", "x" * 64, KEYS[0] + "0", "../" + KEYS[0], KEYS[0].upper().replace("0", "A")):
        with pytest.raises(ValueError, match="no content key"):
            cache.write(key, {"u": good})
        with pytest.raises(ValueError, match="no content key"):
            cache.read(key, {})
    bad = [("../u", good), ("_METADATA", good), ("", good), ("a.b", good)]
    bad += [("u", good.astype(kind)) for kind in (object, "U3", ">f8", np.longdouble, "f8,f8")]
    for name, array in [*bad, ("u", good[:0])]:
        with pytest.raises(ValueError, match="cannot store"):
            cache.write(KEYS[0], {name: array})
    with pytest.raises(ValueError, match="max_bytes"):
        ArrayCache(tmp_path, -1)
    assert names(tmp_path) == set()


# The bound


def test_evicts_what_was_not_used_for_longest(tmp_path, entry_bytes):
    bound = 3 * entry_bytes
    for number in range(3):
        assert write(ArrayCache(tmp_path, bound), number)
    assert right(ArrayCache(tmp_path, bound), 0)  # 1 is now the oldest
    cache = ArrayCache(tmp_path, bound)
    for number in (3, 4):
        assert write(cache, number)
        assert cache.used_bytes <= bound
    assert names(tmp_path) == {f"svdjax-{KEYS[number]}.npz" for number in (0, 3, 4)}
    assert all(right(cache, number) for number in (0, 3, 4))


def test_keeps_what_this_run_uses_and_says_so_once(tmp_path, entry_bytes):
    """A scan over more than fits, twice: what fits is read the second time."""
    assert write(ArrayCache(tmp_path, ROOMY), 9)
    said = []
    cache = ArrayCache(tmp_path, 3 * entry_bytes, note=said.append)
    for _ in range(2):
        for number in range(6):
            if not right(cache, number):
                write(cache, number)
                assert cache.used_bytes <= cache.max_bytes
    assert names(tmp_path) == {f"svdjax-{KEYS[number]}.npz" for number in range(3)}
    assert (cache.hits, cache.misses, cache.skipped) == (3, 9, 6)
    assert len(said) == 1
    assert "no room" in said[0]


def test_what_is_larger_than_the_bound_evicts_nothing(tmp_path, entry_bytes):
    assert write(ArrayCache(tmp_path, ROOMY), 1)
    said = []
    cache = ArrayCache(tmp_path, 2 * entry_bytes, note=said.append)
    assert not write(cache, 2, side=200)
    assert right(cache, 1)
    assert len(said) == 1


def test_opening_brings_a_directory_within_its_bound(tmp_path, entry_bytes):
    for number in range(4):
        assert write(ArrayCache(tmp_path, ROOMY), number)
    cache = ArrayCache(tmp_path, 5 * entry_bytes // 2)
    assert names(tmp_path) == {f"svdjax-{KEYS[number]}.npz" for number in (2, 3)}
    assert cache.used_bytes == 2 * entry_bytes


def test_zero_touches_nothing(tmp_path):
    cache = ArrayCache(tmp_path / "none", 0, note=pytest.fail)
    assert not write(cache, 1)
    assert not right(cache, 1)
    assert cache.used_bytes == 0
    assert not (tmp_path / "none").exists()
    assert write(ArrayCache(tmp_path / "some", ROOMY), 1)
    assert not right(ArrayCache(tmp_path / "some", 0), 1)
    assert names(tmp_path / "some") == {f"svdjax-{KEYS[1]}.npz"}


def test_entries_hold_no_pickle(tmp_path):
    assert write(ArrayCache(tmp_path, ROOMY), 1)
    with np.load(tmp_path / f"svdjax-{KEYS[1]}.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["arrays/u"].view(np.float64), entry(1)["u"])
