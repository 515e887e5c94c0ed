"""Every disguise defeats raw NF, and alignment sees through it; its parts one by one."""

from __future__ import annotations

import numpy as np
import pytest

from svdjax import reference
from svdjax.fingerprint.canonical import canonical
from svdjax.fingerprint.matching import rotated
from svdjax.fingerprint.rotation import Grams, refined_rotation, rotation_from_grams
from tests.fingerprint.harness import DEFEATED, disguised, random_layer, raw_nf, verdict
from tools.disguises import DISGUISES

BASE, INSTRUCT = (reference.path(name) for name in ("base", "instruct"))
# What each disguise touches.
TOUCHED = {
    "neurons": ("gate_proj", "up_proj", "down_proj"),
    "heads": ("q_proj", "o_proj"),
    "groups": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "values": ("v_proj", "o_proj"),
    "vo": ("v_proj", "o_proj"),
    "planes": ("q_proj", "k_proj"),
    "updown": ("up_proj", "down_proj"),
    "norms": ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"),
    "rotation": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
}


EVERY = TOUCHED["rotation"]


@pytest.fixture(scope="module")
def plain() -> list[float]:
    return raw_nf(BASE, INSTRUCT, EVERY)


@pytest.fixture(scope="module")
def undisguised() -> float:
    return verdict(BASE, INSTRUCT)["distance"]


def test_every_disguise_is_tested():
    assert {*TOUCHED, "experts"} == DISGUISES.keys()


@pytest.mark.parametrize("name", TOUCHED)
def test_a_disguise_defeats_raw_nf_and_is_survived(name, plain, undisguised, tmp_path):
    suspect = disguised(INSTRUCT, tmp_path / name, name)
    assert min(raw_nf(BASE, suspect, TOUCHED[name])) > DEFEATED
    assert max(plain) < DEFEATED / 2
    found = verdict(BASE, suspect)
    assert found["verdict"] == "related"
    if name == "rotation":
        # Fitted to embeddings that training moved too: it costs 0.01, less than noise of 1 %.
        assert found["distance"] < undisguised + 0.02
        assert found["alignment"]["residual"] == "embeddings"
    else:
        # Exactly undone: what is left is float32's rounding of the disguised weights.
        assert found["distance"] == pytest.approx(undisguised, abs=1e-5)


def test_gram_matrices_and_matches_find_a_rotation():
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.standard_normal((24, 24)))[0]
    pairs, grams = [], (Grams(24, 4), Grams(24, 4))
    for number in range(4):
        layer = canonical(random_layer(rng))
        suspect = rotated(layer, turn)
        pairs.append((layer, suspect))
        grams[0].add(layer, number)
        grams[1].add(suspect, number)
    for half in (0, 1):
        start = rotation_from_grams(grams[0].sums[half], grams[1].sums[half])
        # Exact up to its sign, and to the tolerance at which the ascent stops (1e-3 of the gain).
        assert abs(np.trace(turn @ start)) / 24 > 0.99
        # The neurons then give it to rounding (their table of cosines is float32, the fit is not).
        np.testing.assert_allclose(refined_rotation(pairs[half::2], start), turn.T, atol=1e-9)
