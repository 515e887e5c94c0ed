"""Looks for small JSON files that break their readers, guided by coverage; needs atheris.

    pip install atheris
    python tools/fuzz_json.py config-llama -max_total_time=600

The first argument is a fuzzer of tests/checkpoint/test_fuzz_json.py, the others are libFuzzer's. A
file that ends in anything but a success or one line is left as `crash-…` in the current directory.
"""

from __future__ import annotations

import importlib
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np

atheris: Any = importlib.import_module("atheris")  # not installed where it is not used
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["svdjax.checkpoint", "svdjax.construct"]):
    from svdjax.checkpoint import patterns
    from tests.checkpoint.test_fuzz_json import FUZZERS

MOST_BYTES = 100_000


def main(name: str, options: list[str]) -> None:
    """Fuzz until libFuzzer ends the process."""
    patterns._SECONDS = 0.3
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = FUZZERS[name](pathlib.Path(folder))
        corpus = pathlib.Path(folder) / "corpus"
        corpus.mkdir()
        draw = np.random.default_rng(0)
        for number in range(50):
            (corpus / str(number)).write_bytes(fuzzer.content(draw)[:MOST_BYTES])

        def mutate(content: bytes, most: int, seed: int) -> bytes:
            # Bytes by libFuzzer, and values by ours: JSON is seldom hit by the former.
            if seed % 2:
                return atheris.Mutate(content, len(content) + 8)[:most]
            return fuzzer.content(np.random.default_rng(seed))[:most]

        atheris.Setup(
            [sys.argv[0], str(corpus), f"-max_len={MOST_BYTES}", "-rss_limit_mb=4096", *options],
            lambda content: fuzzer.attempt(content) and None,
            custom_mutator=mutate,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in FUZZERS:
        sys.exit(f"usage: fuzz_json.py {'|'.join(FUZZERS)} [options of libFuzzer]")
    main(sys.argv[1], sys.argv[2:])
