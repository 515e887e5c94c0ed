"""Small JSON files, damaged by chance: an `InputError` in one line or a success, in bounded time.

`tools/fuzz_json.py` goes on where these end, guided by coverage.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest

from svdjax.checkpoint import patterns
from tests.support import fuzzing, tiny
from tests.support.fuzzing import Fuzzer

FUZZERS: dict[str, Callable[[pathlib.Path], Fuzzer]] = {
    **{
        f"config-{family}": lambda folder, family=family: fuzzing.config_fuzzer(folder, family)
        for family in tiny.FAMILIES
    },
    "adapter": fuzzing.adapter_fuzzer,
    "generation": fuzzing.generation_fuzzer,
    "numbers": fuzzing.numbers_fuzzer,
}
QUICK = {"adapter": 250, "generation": 250, "numbers": 100}
FAMILY = 50  # times nine


@pytest.fixture(autouse=True)
def _impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regular expressions that take for ever are given less than their four seconds."""
    monkeypatch.setattr(patterns, "_SECONDS", 0.3)


def run(fuzzer: Fuzzer, count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    before, refused = fuzzing.peak_bytes(), 0
    for number in range(count):
        content = fuzzer.content(draw)
        try:
            refused += bool(fuzzer.attempt(content))
        except BaseException as fault:
            fault.add_note(f"input {number}: {content[:3000]!r}")
            raise
    assert fuzzing.peak_bytes() - before < fuzzing.MOST_GROWTH
    # The damage does something, and not always the same.
    assert 0.1 * count < refused < count


@pytest.mark.parametrize("name", FUZZERS)
def test_damage_is_refused_or_harmless(name: str, tmp_path: pathlib.Path) -> None:
    run(FUZZERS[name](tmp_path), QUICK.get(name, FAMILY), seed=27)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZERS)
def test_much_damage_is_refused_or_harmless(name: str, tmp_path: pathlib.Path) -> None:
    run(FUZZERS[name](tmp_path), 20_000 if name in QUICK else 20_000 // 9 + 1, seed=2027)


@pytest.mark.parametrize("name", FUZZERS)
def test_the_good_contents_are_good(name: str, tmp_path: pathlib.Path) -> None:
    fuzzer = FUZZERS[name](tmp_path)
    accepted = [fuzzer.attempt(fuzzing.json.dumps(good).encode()) == "" for good in fuzzer.good]
    assert any(accepted)
