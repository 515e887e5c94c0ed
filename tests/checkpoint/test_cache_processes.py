"""A cache that several processes and threads use at once, and that are killed meanwhile."""

from __future__ import annotations

import fcntl
import threading

import numpy as np
import pytest

from svdjax.checkpoint.cache import ArrayCache
from tests.checkpoint.cache_harness import (
    KEYS,
    ROOMY,
    names,
    output,
    right,
    start,
    write,
)


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


def test_the_bound_holds_for_all_processes_together(tmp_path, entry_bytes):
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
    processes = [start(script, tmp_path, 3 * entry_bytes, first) for first in range(2)]
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
