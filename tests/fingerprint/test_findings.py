"""Every sentence that the command can print, with numbers on both sides of its condition."""

from __future__ import annotations

import math
from typing import Any

import pytest

from svdjax.fingerprint import lineage, shared_training
from svdjax.fingerprint.findings import (
    ancestor_words,
    chance,
    named,
    nearest_words,
    numbers,
    sentences,
    training_words,
    verdict_words,
)
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.verdict import Thresholds, decide, overall


def part(module: str, layer: int | None, verdict: str, reference: int | None = None) -> dict:
    number = layer if reference is None else reference
    name = module if layer is None else f"layers.{layer}.{module}"
    return {
        "part": name,
        "module": module,
        "suspect": layer,
        "reference": number,
        "verdict": verdict,
        "distance": {"related": 0.1, "undecided": 0.8, "unrelated": 0.99}[verdict],
    }


def result(verdict: str, parts: list[dict] | None = None, **changes: Any) -> dict[str, Any]:
    parts = parts or []
    usual = {
        "verdict": verdict,
        "reference": "a",
        "distance": 0.1,
        "log10_p_value": -40.0,
        "thresholds": {"derived": 0.7, "unrelated": 0.9, "p_value": 1e-6},
        "parts": parts,
        "related_parts": [each for each in parts if each["verdict"] == "related"],
        "alignment": {"residual": "as it is"},
        "projections": {"q_proj": {}},
        "shared_training": {"kind": None, "leading": None, "outliers": None},
    }
    return usual | changes


def test_the_verdict_rests_on_the_effect_and_p_guards():
    usual = Thresholds()
    assert decide(0.7, -6, usual) == "related"
    assert decide(0.7, -5.9, usual) == "undecided"
    assert decide(0.701, -300, usual) == "undecided"
    assert decide(0.899, -300, usual) == "undecided"
    # However small the p-value: a few shared directions are no common origin.
    assert decide(0.9, -300, usual) == "unrelated"
    assert decide(math.nan, 0.0, usual) == "undecided"
    job = FingerprintJob("a", "b", "c.json")
    assert (job.derived, job.unrelated, job.p_value) == (0.7, 0.9, 1e-6)
    assert job.thresholds == usual


@pytest.mark.parametrize(
    ("whole", "layers", "ends", "verdict"),
    [
        ("related", ["related", "undecided"], ["unrelated"], "related"),
        ("related", ["related", "unrelated"], ["related"], "partly related"),
        ("unrelated", ["unrelated", "related"], [], "partly related"),
        ("undecided", ["undecided", "related"], [], "partly related"),
        ("unrelated", ["unrelated"], ["related"], "partly related"),
        ("unrelated", ["unrelated", "undecided"], ["undecided"], "unrelated"),
        ("undecided", ["undecided"], [], "undecided"),
    ],
)
def test_partly_related_is_what_is_not_related_in_all_parts(whole, layers, ends, verdict):
    assert overall(whole, layers, ends) == verdict


@pytest.mark.parametrize(
    ("log10", "words"),
    [
        (0.0, "not below one in a hundred"),
        (-1.99, "not below one in a hundred"),
        (-2.0, "less than one in a hundred"),
        (-2.99, "less than one in a hundred"),
        (-3.0, "less than one in a thousand"),
        (-6.0, "less than one in a million"),
        (-8.9, "less than one in a million"),
        (-9.0, "less than one in a billion"),
        (-12.0, "less than one in a trillion"),
        (-40000.0, "less than one in a trillion"),
    ],
)
def test_p_is_a_bound_in_words(log10, words):
    assert chance(log10) == words


def test_related_names_what_is_not():
    every = [part(module, n, "related") for n in range(3) for module in ("self_attn", "mlp")]
    text = verdict_words(result("related", every))
    assert text.startswith(
        "The two share an origin: one comes from the other, or both from a third"
    )
    assert "Not related" not in text
    text = verdict_words(result("related", [*every, part("embeddings", None, "undecided")]))
    assert "Not related" not in text
    text = verdict_words(result("related", [*every, part("embeddings", None, "unrelated")]))
    assert text.endswith("Not related: the embeddings.")


def test_partly_related_names_what_is_and_says_what_the_rest_is():
    parts = [part("self_attn", 4, "related"), part("mlp", 4, "unrelated")]
    text = verdict_words(result("partly related", parts))
    assert text.startswith("Some parts share an origin: attention of layer 4. The rest has no more")
    text = verdict_words(result("partly related", [*parts, part("mlp", 5, "undecided")]))
    assert "For the rest, or some of it, that is not decided" in text


def test_undecided_says_why():
    assert "by chance" in verdict_words(result("undecided", distance=0.7, log10_p_value=-5.0))
    assert "less in common" in verdict_words(result("undecided", distance=0.71))


def test_unrelated_explains_a_small_p():
    assert "more than chance" in verdict_words(result("unrelated", log10_p_value=-6.0))
    text = verdict_words(result("unrelated", log10_p_value=-5.9))
    assert text == "No more in common was found than models that were trained apart have."


@pytest.mark.parametrize(
    ("leading", "outliers", "kind"),
    [
        (shared_training.SHARED_TRAINING, shared_training.TRAINED, "training"),
        (shared_training.SHARED_TRAINING - 0.01, shared_training.TRAINED, "not decided"),
        (shared_training.SHARED_START + 0.01, shared_training.TRAINED, "not decided"),
        (shared_training.SHARED_START, shared_training.TRAINED, "initial weights"),
        # Leading directions that training did not make say nothing of it.
        (1.0, shared_training.TRAINED - 0.01, "not decided"),
        (0.0, shared_training.TRAINED - 0.01, "not decided"),
    ],
)
def test_what_is_shared_is_read_off_the_leading_directions(leading, outliers, kind):
    assert shared_training.kind(leading, outliers) == kind
    shared = {"kind": kind, "leading": leading, "outliers": outliers}
    text = training_words(result("related", shared_training=shared))
    opening = {
        "training": "They share training, not only initial weights",
        "initial weights": "They share initial weights, or a checkpoint from early in training",
        "not decided": "Whether they share training or only initial weights is not decided",
    }
    assert text.startswith(opening[kind])


def test_nothing_is_said_of_training_where_nothing_is_related():
    assert training_words(result("unrelated")) == ""


def reference(name: str, distance: float, parts: list[float], **changes: Any) -> dict[str, Any]:
    entries = [part("mlp", n, "related") | {"distance": d} for n, d in enumerate(parts)]
    return result("related", entries, reference=name, distance=distance, **changes)


@pytest.mark.parametrize(
    ("second", "why"),
    [
        ({"distance": 0.10 / 0.95}, "nearer"),
        ({"distance": 0.10 / 0.951}, "equally near"),
        ({"distance": 0.2, "parts": [0.2] * 9 + [0.05]}, "nearer"),
        ({"distance": 0.2, "parts": [0.2] * 8 + [0.05] * 2}, "parts disagree"),
        ({"distance": 0.2, "projections": {}}, "other matrices"),
    ],
)
def test_the_nearest_reference_is_named_where_the_numbers_allow_it(second, why):
    first = reference("a", 0.10, [0.1] * 10)
    other = reference("b", **({"parts": [0.2] * 10} | second))
    nearest = lineage.nearest([other, first])
    assert nearest["why"] == why
    assert nearest["reference"] == ("a" if why == "nearer" else None)
    assert nearest["next"] == "b"
    text = nearest_words({"nearest": nearest})
    assert text.startswith("Nearest: a, at" if why == "nearer" else "Which reference is nearest is")


def test_no_nearest_among_unrelated_or_equal_references():
    far = [
        reference(name, d, [d]) | {"verdict": "unrelated"} for name, d in (("a", 0.95), ("b", 1))
    ]
    nearest = lineage.nearest(far)
    assert nearest["why"] == "none related"
    assert nearest_words({"nearest": nearest}).endswith("none of them is related as a whole.")
    same = [reference("a", 1e-12, [0.0]), reference("b", 2e-12, [0.0])]
    assert lineage.nearest(same)["why"] == "equally near"
    assert nearest_words(result("related")) == ""


@pytest.mark.parametrize(
    ("rs", "as_", "ar", "between"),
    [
        # Steps of 0.2 and 0.3 in a row, in every order.
        (0.3, 0.5, 0.2, "reference"),
        (0.3, 0.2, 0.5, "suspect"),
        (0.5, 0.2, 0.3, "ancestor"),
        # Detours over reference, suspect and ancestor: 0.1, 0.2 and 0.3; then 0.1 and 0.19.
        (0.3, 0.5, 0.4, "reference"),
        (0.29, 0.49, 0.4, None),
        (0.1, 0.1, 0.1, None),
    ],
)
def test_what_lies_between_has_the_smallest_detour(rs, as_, ar, between):
    trio = [result("related", distance=d) for d in (rs, as_, ar)]
    line = lineage.between(*trio)
    assert line["between"] == between
    assert line["why"] == ("between" if between else "no clear order")
    text = ancestor_words({"ancestor": line})
    start = f"The {between} lies between" if between else "Which of the three lies between"
    assert text.startswith(start)


def test_no_order_is_read_off_unrelated_or_equal_checkpoints():
    trio = [result("related", distance=d) for d in (0.3, 0.5, 0.2)]
    for wrong in range(3):
        changed = [r | {"verdict": "undecided"} if n == wrong else r for n, r in enumerate(trio)]
        line = lineage.between(*changed)
        assert (line["between"], line["why"]) == (None, "not all related")
    assert "not all related" in ancestor_words({"ancestor": line})
    line = lineage.between(trio[0], trio[0], result("related", distance=1e-12))
    assert line["why"] == "same weights"
    assert "same weights" in ancestor_words({"ancestor": line})
    assert ancestor_words(result("related")) == ""


def test_the_terminal_has_every_sentence():
    lines = sentences(result("unrelated", distance=0.99, log10_p_value=0.0))
    assert lines == [
        "unrelated: No more in common was found than models that were trained apart have.",
        "distance 0.9900 (0 same, about 1 unrelated); so much agreement by chance: not below one "
        "in a hundred; residual streams aligned by: as it is",
    ]
    one = {"role": "reference", "reference": "a"}
    more = result(
        "related",
        references=[one, one | {"reference": "b"}],
        nearest={"reference": None, "why": "equally near"},
        ancestor={"between": None, "why": "no clear order"},
        shared_training={"kind": "training", "leading": 0.9, "outliers": 2.0},
    )
    lines = sentences(more)
    assert lines[0] == "Of 2 references, on a:"
    assert [line.split(":")[0].split(" is ")[0] for line in lines[3:]] == [
        "They share training, not only initial weights",
        "Which reference",
        "Which of the three lies between the others",
    ]
    # With an ancestor there is still one reference.
    more["references"][1] = {"role": "ancestor", "reference": "b"}
    assert sentences(more)[0].startswith("related: ")


def test_parts_in_words():
    both = [part(m, n, "related") for n in (0, 1, 2, 5) for m in ("self_attn", "mlp")]
    assert named(both) == "layers 0–2, 5"
    assert named([*both, part("mlp", 7, "related")]) == (
        "layers 0–2, 5 and feed-forward part of layer 7"
    )
    ends = [part("embeddings", None, "related"), part("head", None, "related")]
    assert named(ends) == "the embeddings and the head"
    assert named([part("self_attn", 3, "related", 1)]) == (
        "attention of layer 3 (the reference's 1)"
    )
    assert named([]) == ""


def test_a_distance_that_rounds_to_nothing_has_no_sign():
    for distance in (-1e-9, 0.0, 1e-9):
        assert numbers(result("same weights") | {"distance": distance}).startswith(
            "distance 0.0000"
        )
