"""The cache on disk: right values or a miss, within its bound, whatever befalls its directory."""

from __future__ import annotations

import fcntl
import inspect
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest

from svdjax.checkpoint.cache import FORMAT, ArrayCache, content_key
from svdjax.errors import InputError

ROOMY = 10**9
KEYS = [f"{number:064x}" for number in range(100)]


# The next four are also what the subprocesses know.


def entry(number: int, side: int = 40) -> dict[str, np.ndarray]:
    """The arrays that belong to a number."""
    random = np.random.default_rng(number)
    return {"u": random.standard_normal((2, side, side)), "s": random.standard_normal((2, side))}


def form(arrays):
    """What `read` is to expect."""
    return {name: (array.shape, array.dtype) for name, array in arrays.items()}


def right(cache: ArrayCache, number: int, side: int = 40) -> bool:
    """Whether the entry of a number is there; if so, its values must be right."""
    arrays = entry(number, side)
    found = cache.read(f"{number:064x}", form(arrays))
    assert found is None or all((found[name] == arrays[name]).all() for name in arrays)
    return found is not None


def write(cache: ArrayCache, number: int, side: int = 40) -> bool:
    """Writes the entry of a number."""
    return cache.write(f"{number:064x}", entry(number, side))


PRELUDE = """from __future__ import annotations
import os, resource, signal, sys, time
import numpy as np
from svdjax.checkpoint.cache import ArrayCache

notes = []
"""
PRELUDE += "".join(map(inspect.getsource, (entry, form, right, write)))


def start(script: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Starts a Python process that turns warnings into errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PRELUDE + script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        cwd=pathlib.Path(__file__).parents[2],
    )


def output(process: subprocess.Popen[str]) -> str:
    """Waits for it; it must have succeeded and said nothing on stderr."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out


def names(directory: pathlib.Path) -> set[str]:
    """What lies in a cache's directory, its lock aside."""
    return {path.name for path in directory.iterdir()} - {".svdjax-cache.lock"}


@pytest.fixture(scope="module")
def size(tmp_path_factory) -> int:
    """Bytes on disk of one `entry`."""
    cache = ArrayCache(tmp_path_factory.mktemp("size"), ROOMY)
    assert write(cache, 0)
    assert cache.used_bytes > sum(array.nbytes for array in entry(0).values())
    return cache.used_bytes


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


def test_evicts_what_was_not_used_for_longest(tmp_path, size):
    bound = 3 * size
    for number in range(3):
        assert write(ArrayCache(tmp_path, bound), number)
    assert right(ArrayCache(tmp_path, bound), 0)  # 1 is now the oldest
    cache = ArrayCache(tmp_path, bound)
    for number in (3, 4):
        assert write(cache, number)
        assert cache.used_bytes <= bound
    assert names(tmp_path) == {f"svdjax-{KEYS[number]}.npz" for number in (0, 3, 4)}
    assert all(right(cache, number) for number in (0, 3, 4))


def test_keeps_what_this_run_uses_and_says_so_once(tmp_path, size):
    """A scan over more than fits, twice: what fits is read the second time."""
    assert write(ArrayCache(tmp_path, ROOMY), 9)
    said = []
    cache = ArrayCache(tmp_path, 3 * size, note=said.append)
    for _ in range(2):
        for number in range(6):
            if not right(cache, number):
                write(cache, number)
                assert cache.used_bytes <= cache.max_bytes
    assert names(tmp_path) == {f"svdjax-{KEYS[number]}.npz" for number in range(3)}
    assert (cache.hits, cache.misses, cache.skipped) == (3, 9, 6)
    assert len(said) == 1
    assert "no room" in said[0]


def test_what_is_larger_than_the_bound_evicts_nothing(tmp_path, size):
    assert write(ArrayCache(tmp_path, ROOMY), 1)
    said = []
    cache = ArrayCache(tmp_path, 2 * size, note=said.append)
    assert not write(cache, 2, side=200)
    assert right(cache, 1)
    assert len(said) == 1


def test_opening_brings_a_directory_within_its_bound(tmp_path, size):
    for number in range(4):
        assert write(ArrayCache(tmp_path, ROOMY), number)
    cache = ArrayCache(tmp_path, 5 * size // 2)
    assert names(tmp_path) == {f"svdjax-{KEYS[number]}.npz" for number in (2, 3)}
    assert cache.used_bytes == 2 * size


def test_zero_touches_nothing(tmp_path):
    cache = ArrayCache(tmp_path / "none", 0, note=pytest.fail)
    assert not write(cache, 1)
    assert not right(cache, 1)
    assert cache.used_bytes == 0
    assert not (tmp_path / "none").exists()
    assert write(ArrayCache(tmp_path / "some", ROOMY), 1)
    assert not right(ArrayCache(tmp_path / "some", 0), 1)
    assert names(tmp_path / "some") == {f"svdjax-{KEYS[1]}.npz"}


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


def test_nothing_else_in_the_directory_is_touched(tmp_path, size):
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
        assert write(ArrayCache(tmp_path, size), number)
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


# Several processes and threads


def test_killed_while_writing(tmp_path):
    """Every entry that is visible after many kills at random moments is whole."""
    script = """
import random, warnings
import jax
warnings.simplefilter("ignore")  # jax's about fork; no thread has been started yet
moments, leftovers = random.Random(0), 0
for child in range(14):
    ready, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        cache = ArrayCache(sys.argv[1], 10**9)
        write(cache, 100 * child, side=300)
        os.write(begun, b"x")
        for number in range(100 * child + 1, 100 * child + 100):
            write(cache, number, side=300)
        os._exit(0)
    os.read(ready, 1)
    time.sleep(moments.uniform(0, 0.1))
    os.kill(pid, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
    leftovers += any(name.endswith(".tmp") for name in os.listdir(sys.argv[1]))
print(leftovers)
"""
    assert int(output(start(script, tmp_path))) >= 3  # some kills fell into a write
    cache = ArrayCache(tmp_path, ROOMY)
    entries = names(tmp_path)
    assert len(entries) >= 14
    for name in entries:
        assert right(cache, int(name[len("svdjax-") : -len(".npz")], 16), side=300)
    assert names(tmp_path) == entries  # none was removed as damaged, and no leftovers are there


def test_two_processes_write_the_same_keys_at_once(tmp_path):
    script = """
cache = ArrayCache(sys.argv[1], 10**9, note=notes.append)
write(cache, 0)
print("ready", flush=True)
sys.stdin.readline()
done = [write(cache, number) for number in range(20)]
print(all(done), all(right(cache, number) for number in range(20)), notes)
"""
    processes = [start(script, tmp_path) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [output(process) for process in processes] == ["True True []\n"] * 2
    assert names(tmp_path) == {f"svdjax-{KEYS[number]}.npz" for number in range(20)}


def test_the_bound_holds_for_all_processes_together(tmp_path, size):
    """They evict each other's entries, which neither may take for a fault."""
    script = """
cache = ArrayCache(sys.argv[1], int(sys.argv[2]), note=notes.append)
most = 0
for number in range(int(sys.argv[3]), 60, 2):
    cache = ArrayCache(sys.argv[1], int(sys.argv[2]), note=notes.append)
    write(cache, number)
    most = max(most, cache.used_bytes)
    for other in range(number - 4, number):
        right(cache, other) if other >= 0 else None
print(most <= int(sys.argv[2]), notes)
"""
    processes = [start(script, tmp_path, 3 * size, first) for first in range(2)]
    assert [output(process) for process in processes] == ["True []\n"] * 2
    cache = ArrayCache(tmp_path, ROOMY)
    entries = names(tmp_path)
    assert entries
    assert all(right(cache, int(name[len("svdjax-") : -len(".npz")], 16)) for name in entries)


def test_busy_writer_is_waited_for_once_and_not_disturbed(tmp_path):
    assert write(ArrayCache(tmp_path, ROOMY), 1)
    leftover = tmp_path / f".svdjax-cache-{'a' * 16}.tmp"
    leftover.mkdir()
    with (tmp_path / ".svdjax-cache.lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as a live writer does
        cache = ArrayCache(tmp_path, ROOMY, note=pytest.fail)
        assert leftover.exists()
        assert right(cache, 1)
        cache._patience = 0.2
        assert not write(cache, 2)
        assert cache._patience == 0
        assert leftover.exists()
        assert cache.skipped == 1
    assert write(cache, 2)
    assert cache._patience > 0
    assert names(tmp_path) == {f"svdjax-{KEYS[1]}.npz", f"svdjax-{KEYS[2]}.npz"}


def test_entry_that_vanishes_while_it_is_read_is_a_miss(tmp_path):
    cache = ArrayCache(tmp_path, ROOMY)
    path, stop = tmp_path / f"svdjax-{KEYS[1]}.npz", threading.Event()

    def evict() -> None:
        random = np.random.default_rng(0)
        while not stop.wait(random.uniform(0, 0.002)):
            path.unlink(missing_ok=True)

    evictor = threading.Thread(target=evict)
    evictor.start()
    try:
        for _ in range(300):
            write(cache, 1)
            right(cache, 1)  # or not there, which is no error
    finally:
        stop.set()
        evictor.join()
    assert cache.misses > 0


def test_threads_read_and_write(tmp_path):
    cache = ArrayCache(tmp_path, ROOMY, note=pytest.fail)
    for number in range(10):
        assert write(cache, number)
    results = []

    def reader() -> None:
        results.extend(right(cache, number) for number in range(10))

    threads = [threading.Thread(target=reader) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert all(write(cache, number) for number in range(10, 20))
    for thread in threads:
        thread.join()
    assert results == [True] * 20
    assert (cache.hits, cache.misses, cache.skipped) == (20, 0, 0)


def test_entries_hold_no_pickle(tmp_path):
    assert write(ArrayCache(tmp_path, ROOMY), 1)
    with np.load(tmp_path / f"svdjax-{KEYS[1]}.npz", allow_pickle=False) as stored:
        np.testing.assert_array_equal(stored["arrays/u"].view(np.float64), entry(1)["u"])
