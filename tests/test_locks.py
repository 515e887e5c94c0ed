"""Locks on files: one holder at a time, in this process too, and what becomes of their files."""

from __future__ import annotations

import threading
import time

import pytest

from svdjax.locks import Lock


def test_one_holder_at_a_time(tmp_path):
    path = tmp_path / "lock"
    first, second = Lock(path), Lock(path)
    first.acquire()
    begin = time.monotonic()
    with pytest.raises(BlockingIOError):
        second.acquire()
    assert time.monotonic() - begin < 5
    first.close()
    first.close()  # given back already
    third = Lock(path)
    third.acquire()
    third.close()


def test_patience_waits_for_the_holder(tmp_path):
    path = tmp_path / "lock"
    first, second = Lock(path), Lock(path)
    first.acquire()
    threading.Timer(0.05, first.close).start()
    second.acquire(patience=60)
    second.close()


def test_a_file_that_was_replaced_is_another(tmp_path):
    path = tmp_path / "lock"
    lock = Lock(path)
    lock.acquire()
    assert lock.in_place()
    path.unlink()
    assert not lock.in_place()
    path.touch()
    assert not lock.in_place()
    lock.close()


def test_links_are_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="lock"):
        Lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()
