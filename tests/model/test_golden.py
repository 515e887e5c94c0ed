"""Logits against stored ones of transformers (torch, float32, eager attention): no torch needed.

The tolerance is 1e-4: float32 rounding of two implementations with different orders of summation
reaches 2e-5 on these models, whose logits have a deviation of about 2. It is never to be loosened.
"""

from __future__ import annotations

import pathlib
import zlib
from collections.abc import Callable

import numpy as np
import pytest

from tests.model.loading import Loaded
from tests.model.variants import VARIANTS
from tests.support import tiny

GOLDEN = pathlib.Path(__file__).parent / "golden"
TOLERANCE = 1e-4


def checksum(directory: pathlib.Path) -> int:
    """Of all tensors' bytes, so that a changed random generator is told from a wrong decoder."""
    tensors = tiny.read_tensors(directory)
    return zlib.crc32(b"".join(tensors[name].tobytes() for name in sorted(tensors)))


@pytest.mark.parametrize("name", VARIANTS)
def test_logits_equal_the_golden_ones(name: str, variant: Callable[[str], Loaded]) -> None:
    model = variant(name)
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as golden:
        assert checksum(model.directory) == int(golden["weights"]), "these are other weights"
        np.testing.assert_array_equal(golden["tokens"], model.tokens)
        expected = golden["logits"]
    found = model.logits()
    assert found.dtype == np.float32
    assert expected.std() >= 1.0, "the test would be toothless"
    assert np.abs(found - expected).max() <= TOLERANCE


@pytest.mark.parametrize("name", VARIANTS)
def test_sequences_outrun_windows_and_contexts(name: str, variant: Callable[[str], Loaded]) -> None:
    model = variant(name)
    limits = [window for window in model.config.windows if window is not None]
    limits.append(model.config.rope.original_max_position_embeddings // 2)
    assert max(limits) < model.tokens.shape[1]


def test_goldens_stay_small() -> None:
    assert sum(file.stat().st_size for file in GOLDEN.glob("*")) < 400_000
    assert {file.stem for file in GOLDEN.glob("*.npz")} == set(VARIANTS)
