"""What is said of restorations beside their controls: numbers on both sides of every condition."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from svdjax.construct.control_findings import (
    FACTOR,
    POINTS,
    Z,
    answer_lines,
    compared,
    control_lines,
    differ,
    surviving_lines,
)
from svdjax.construct.controls import CONTROLS, controls_of
from svdjax.construct.findings import findings
from svdjax.construct.recipes import VARIANTS
from svdjax.construct.results import ConstructionResults
from svdjax.construct.tables import construction_tables
from svdjax.construct.views import construction_views
from svdjax.evaluate.results import EvaluationResults, Score
from tests.report import synthetic_constructions as synthetic

NARROW = "\u202f"
NAMES = ("replaced", "restoration_V_SA", "restoration_U_FFN")
KL = 0.02  # of both restorations, up to the thousandths that tell models apart


def made(noise=KL, interpolated=KL, reverted=0.5, **more):
    kinds = {"noise": noise, "interpolated": interpolated, "reverted": reverted}
    return synthetic.results(names=NAMES, restoration=(0.09, KL), controls=kinds, **more)


def said(results) -> str:
    (line,) = control_lines(results)
    return line


@pytest.mark.parametrize(
    ("value", "reference", "expected"),
    [
        (1.0, 2.0, "less"),
        (1.0, 1.99, "alike"),
        (1.0, 1.0, "alike"),
        (1.99, 1.0, "alike"),
        (2.0, 1.0, "more"),
        (0.0, 0.0, "alike"),
        (0.1, 0.0, "more"),
        (0.0, 0.1, "less"),
    ],
)
def test_two_costs_are_alike_within_a_factor(value, reference, expected):
    assert FACTOR == 2
    assert compared(value, reference) == expected


BOTH = "Restoration of V in attention and U in MLP"


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (2.01, "costs less than its size explains."),
        (1.98, "costs what any change of its size costs."),
        (0.51, "costs what any change of its size costs."),
        (0.49, "costs more than its size explains: it takes away what this text needs."),
    ],
)
def test_a_restoration_beside_noise_of_its_size(times, words):
    text = said(made(noise=times * KL))
    assert f"{BOTH} {words}" in text
    assert "within a factor of 2" in text


@pytest.mark.parametrize(
    ("times", "word"), [(2.01, "less than"), (1.98, "as much as"), (0.49, "more than")]
)
def test_a_restoration_beside_the_way_back(times, word):
    text = said(made(interpolated=times * KL))
    assert f"{BOTH} costs {word} the same distance straight back towards base." in text


def test_the_costs_of_all_of_them_are_said():
    results = made(noise=0.0003, interpolated=0.05, reverted=0.61)
    text = said(results)
    assert text.startswith("Is restoration more than a small change? KL from the original is")
    for words in ("for restoration", "0.000300 for noise of exactly the same size"):
        assert words in text
    assert "0.0500 for base + sΔ at the same distance" in text
    assert "0.610 for the modules of base" in text
    assert said(results) in findings(results)


def test_models_of_one_group_are_told_apart_by_name():
    results = made()
    one = results.controls["restoration_V_SA_noise"]
    results.controls["restoration_V_SA_noise"] = dataclasses.replace(one, kl=0.0001)
    text = said(results)
    assert "Restoration of V in attention costs more than its size explains" in text
    assert "Restoration of U in MLP costs what any change of its size costs." in text


def test_base_may_be_nearer_than_what_was_restored():
    results = made()
    assert "base is nearer" not in said(results)
    one = results.controls["restoration_V_SA_interpolated"]
    results.controls[one.name] = dataclasses.replace(one, at_base=3)
    # Two projections of four layers in attention, one in the MLP.
    assert "In 3 of 12 matrices base is nearer than what was restored" in said(results)


def test_without_controls_nothing_is_said_of_size():
    results = synthetic.results(names=NAMES)
    assert "so that is not known" in said(results)
    kinds = {"interpolated": 0.1, "reverted": 0.2}
    assert "so that is not known" in said(synthetic.results(names=NAMES, controls=kinds))
    odd = made(overridden=synthetic.lost("restoration_V_SA", "restoration_U_FFN"))
    assert control_lines(odd) == []
    lost = made(noise=math.nan)
    assert "so that is not known" in said(lost)
    partly = made()
    one = partly.controls["restoration_V_SA_noise"]
    partly.controls[one.name] = dataclasses.replace(one, kl=math.nan)
    assert "attention" not in said(partly)
    still = synthetic.results(names=NAMES, restoration=(0.0, 0.0), controls=kinds)
    assert control_lines(still) == []
    assert control_lines(synthetic.results(names=("replaced",), controls=kinds)) == []


# The surviving share.


@pytest.mark.parametrize(
    ("off", "words"),
    [
        (0.051, "leaves more than of a random change"),
        (0.049, "takes away the part that it takes of any small change"),
        (-0.049, "takes away the part that it takes of any small change"),
        (-0.051, "leaves less than of a random change"),
    ],
)
def test_the_surviving_share_beside_the_predicted_one(off, words):
    assert POINTS == 0.05
    shares = {"surviving": 0.5 + off, "surviving_predicted": 0.5}
    parts = {
        "q_proj": synthetic.change(0.1, surviving=0.41, surviving_predicted=0.45),
        "o_proj": synthetic.change(0.1, surviving=0.61, surviving_predicted=0.55),
    }
    some = {"restoration_V_SA": {**shares, "projections": parts}}
    results = synthetic.results(names=NAMES, overridden=some)
    (line,) = surviving_lines(results)
    assert f"Restoration of V in attention {words}" in line
    assert "U in MLP" not in line  # nothing is known of it
    for number in ("41.0", "61.0", "45.0", "55.0"):
        assert f"{number}{NARROW}%" in line
    assert line in findings(results)


def test_no_share_no_sentence():
    assert surviving_lines(synthetic.results()) == []


# Answers.


def score(right: float, n: int = 100) -> Score:
    return Score(
        n=n,
        repeats=1,
        accuracy_mean=right,
        accuracy_std=0.0,
        tokens_mean=20.0,
        tokens_std=0.0,
        stopped=100.0,
    )


def answered(post=80.0, restored=40.0, n=100, **rights_of: float | None):
    rights = {"post": post, "base": 0.0, "restoration_V_SA": restored}
    kinds: dict[str, float | None] = {"noise": 80.0, "interpolated": 40.0, "reverted": 0.0}
    kinds |= rights_of
    for one in controls_of(VARIANTS["restoration_V_SA"], kinds):
        right = kinds[one.kind]
        if right is not None:
            rights[one.name] = right
    scores = {name: {"questions": score(value, n)} for name, value in rights.items()}
    return EvaluationResults("pair", {"questions": "q"}, {}, scores, {})


def told(**numbers: Any) -> str:
    (line,) = answer_lines(answered(**numbers))
    return line


def test_what_is_left_of_the_answers():
    text = told(post=80.0, restored=40.0, noise=76.0, interpolated=48.0, reverted=8.0)
    assert text.startswith(
        "questions: of the 80.0 % that post answers right, restoration leaves 50.0"
    )
    assert f"noise of exactly the same size 95.0{NARROW}%" in text
    assert f"base + sΔ at the same distance 60.0{NARROW}%" in text
    assert f"the modules of base 10.0{NARROW}%" in text
    assert f"beyond {Z} standard errors of 100 questions" in text


def beyond(start: float, sign: int) -> int:
    """The least whole number of answers beyond `start` of 100 that differs, from the formula."""
    for step in range(1, 100):
        p, q = (start + 1) / 102, (start + sign * step + 1) / 102
        if abs(p - q) > 1.96 * math.sqrt((p * (1 - p) + q * (1 - q)) / 102):
            return step
    raise AssertionError


@pytest.mark.parametrize("sign", [-1, 1])
def test_scores_differ_beyond_chance(sign):
    step = beyond(50, sign)
    assert step == 14  # of 100 questions, half right
    assert differ(score(50 + sign * step), score(50)) == sign
    assert differ(score(50 + sign * (step - 1)), score(50)) == 0
    # All right and all wrong have no spread of their own.
    assert differ(score(100), score(100)) == differ(score(0), score(0)) == 0
    assert differ(score(100, 5), score(0, 5)) == 1
    assert differ(score(100, 1), score(0, 1)) == 0


@pytest.mark.parametrize(
    ("noise", "words"),
    [
        (64.0, "leaves less than noise of its size: what it takes away was needed."),
        (63.0, "leaves no less and no more than noise of its size"),
        (37.0, "leaves no less and no more than noise of its size"),
        (36.0, "leaves more than noise of its size, which its size does not explain."),
    ],
)
def test_answers_beside_those_of_noise(noise, words):
    assert f"Restoration of V in attention {words}" in told(restored=50.0, noise=noise)


@pytest.mark.parametrize(
    ("back", "word"),
    [(64.0, "less than"), (63.0, "as much as"), (37.0, "as much as"), (36.0, "more than")],
)
def test_answers_beside_those_of_the_way_back(back, word):
    text = told(restored=50.0, interpolated=back)
    assert f"Restoration of V in attention leaves {word} the same distance straight back" in text


def test_a_module_that_the_questions_do_not_test():
    words = "With base's own attention as many are right"
    assert words in told(post=50.0, reverted=37.0)
    assert words not in told(post=50.0, reverted=36.0)
    assert words not in told(reverted=None)


def test_answers_without_controls_say_nothing():
    assert answer_lines(answered(noise=None)) == []
    assert "post answers nothing right" in told(post=0.0)
    assert "straight back" not in told(interpolated=None)


# Tables.


def test_every_construction_stands_beside_its_controls():
    results = made(noise=0.001, interpolated=0.03)
    tables = construction_tables(results)
    rows = {row["variant"]: row for row in tables["constructions"].rows}
    for name, row in rows.items():
        for kind in CONTROLS:
            control = results.control(results.variants[name], kind)
            assert control is not None
            assert row[f"{kind}_kl"] == control.kl
            assert row[f"{kind}_change"] == control.change
    controls = tables["construction_controls"].rows
    assert {row["name"] for row in controls} == set(results.controls)
    # Noise and base + sΔ of three, and base's attention, MLP and all of its modules.
    assert len(controls) == 2 * 3 + 3
    row = next(each for each in controls if each["name"] == "restoration_V_SA_noise")
    assert row["wanted_change"] == results.variants["restoration_V_SA"].change
    titles = [each.title for each in construction_views(tables)]
    assert {"Beside their controls", "The controls"} <= set(titles)
    bare = construction_tables(synthetic.results(names=NAMES))
    assert "construction_controls" not in bare
    assert "Beside their controls" not in [each.title for each in construction_views(bare)]


def test_results_are_read_as_they_were_written(tmp_path):
    results = made()
    results.save(tmp_path)
    again = ConstructionResults.load(tmp_path)
    assert again.controls.keys() == results.controls.keys()
    assert again.summary() == results.summary()


def test_results_of_before_there_were_controls_are_read(tmp_path):
    results = synthetic.results(names=NAMES)
    path = results.save(tmp_path)
    stored = json.loads(path.read_text("utf-8"))
    del stored["controls"]
    for one in stored["variants"].values():
        for key in ("surviving", "surviving_predicted", "control", "control_of", "at_base"):
            del one[key]
        for each in one["projections"].values():
            del each["surviving"], each["surviving_predicted"]
    path.write_text(json.dumps(stored), encoding="utf-8")
    again = ConstructionResults.load(tmp_path)
    assert again.controls == {}
    assert again.summary() == results.summary()
