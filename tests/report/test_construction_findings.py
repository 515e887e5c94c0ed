"""The sentences about constructed models follow the numbers."""

from __future__ import annotations

import math

import pytest

from svdjax.construct.findings import findings, lead
from svdjax.construct.groups import LOST, NEAR, WORDS, fate, group_of, grouped, short
from svdjax.construct.recipes import VARIANTS
from svdjax.report.numbers import ends, percent
from tests.report import synthetic_constructions as synthetic

RAW = [name for name, one in VARIANTS.items() if one.signs == "raw"]
NARROW = "\u202f"


def said(made) -> str:
    return " ".join(findings(made))


def line(made, start: str) -> str:
    (found,) = (one for one in findings(made) if one.startswith(start))
    return found


def test_the_papers_outcome_is_told_with_its_numbers():
    made = synthetic.results()
    text = lead(made)
    assert text.startswith("16 models were constructed and judged on 2075 tokens of 90 held-out")
    assert "loss of 1.25 nats" in text
    assert "Replaced singular values: both are near the original." in text
    assert "Restoration: all 4 are near the original." in text
    assert "Ablation with raw signs: all 4 are lost." in text
    assert findings(made)[0] == WORDS
    restored = line(made, "Restoration (eqs. 11 and 16)")
    models = [made.variants[f"restoration_{s}_{m}"] for s in "VU" for m in ("SA", "FFN")]
    for key in ("loss", "kl"):
        low, high = (f(getattr(one, key) for one in models) for f in (min, max))
        assert f"{low:#.3g}" in restored
        assert f"{high:#.3g}" in restored
    assert ends([one.change for one in models], percent) in restored
    assert ends([one.agreement / 100 for one in models], percent) in restored
    assert "Restoration from another post model (eq. 12): both are near" in said(made)


def test_the_thresholds_are_said():
    assert f"within {NEAR} nats" in WORDS
    assert f"at least {LOST:.1f} above" in WORDS
    assert math.exp(-LOST) == pytest.approx(0.1)  # "a tenth as likely"


@pytest.mark.parametrize(
    ("loss", "kl", "expected"),
    [
        (1.25, 0.0, "near"),
        (1.349, 0.1, "near"),
        (1.36, 0.05, "changed"),
        (1.25, 0.11, "changed"),
        (0.9, 0.05, "changed"),
        (1.25 + LOST - 0.01, 5.0, "changed"),
        (1.25 + LOST + 0.01, 0.05, "lost"),
        (math.nan, math.nan, "undefined"),
        (math.inf, 1.0, "undefined"),
        (1.25, math.inf, "undefined"),
    ],
)
def test_what_becomes_of_a_model_is_decided_by_loss_and_kl(loss, kl, expected):
    one = synthetic.model("restoration_V_SA", 0.1, kl, loss=loss)
    assert fate(one, 1.25) == expected


def test_a_restoration_that_fails_is_told_by_name():
    bad = {"restoration_U_FFN": {"loss": 4.0, "kl": 3.0}, "restoration_V_SA": {"kl": 0.4}}
    text = line(synthetic.results(overridden=bad), "Restoration (")
    assert "2 are near the original (V in MLP and U in attention)" in text
    assert "1 is changed (V in attention)" in text
    assert "1 is lost (U in MLP)" in text
    text = lead(synthetic.results(restoration=(0.9, 5.0)))
    assert "Restoration: all 4 are lost." in text
    assert "near" not in lead(synthetic.results(restoration=(0.9, 5.0), replaced=(0.5, 1.0)))


def test_an_ablation_that_does_not_destroy_is_told():
    made = synthetic.results(raw=(0.3, 0.03), aligned=(0.2, 0.02))
    assert "Ablation with raw signs: all 4 are near the original." in lead(made)
    assert "signs have nothing to explain" in line(made, "Does ablation")
    assert "lost" not in lead(made)


def test_whether_aligned_signs_still_destroy():
    made = synthetic.results()
    still = line(made, "Does ablation")
    assert "with aligned signs all 4 are lost: the arbitrary choice of signs alone does" in still
    raw, aligned = (
        ends([one.change for one in made.variants.values() if one.signs == signs], percent)
        for signs in ("raw", "aligned")
    )
    assert f"change of the weights is {aligned} instead of {raw}" in still
    saved = line(synthetic.results(aligned=(0.2, 0.01)), "Does ablation")
    assert "all 4 are near the original: what loses them is the arbitrary choice" in saved
    some = {"ablation_V_SA_aligned": {"loss": 1.3, "kl": 0.05}}
    part = line(synthetic.results(overridden=some), "Does ablation")
    assert "1 is near the original (V in attention) and 3 are lost" in part
    assert "explains a part of it" in part


def test_kl_of_raw_and_aligned_signs_is_compared_by_factors():
    made = synthetic.results(
        names=("ablation_V_SA", "ablation_V_SA_aligned"),
        overridden={"ablation_V_SA": {"kl": 6.0}, "ablation_V_SA_aligned": {"kl": 1.5}},
    )
    assert "KL with raw signs is 4.00 times that with aligned" in line(made, "Does ablation")


def test_the_share_of_arbitrary_signs_is_said():
    text = line(synthetic.results(), "An aligned sign")
    assert f"2.5{NARROW}% of the pairs" in text
    assert not [one for one in findings(synthetic.results(names=RAW)) if "arbitrary where" in one]


def test_a_restoration_without_controls_shows_nothing_of_itself():
    made = synthetic.results(names=("restoration_V_SA", "ablation_U_SA", "restoration_V_FFN"))
    assert "No change of the same size was made beside it" in line(made, "Is restoration")
    assert "Does ablation" not in said(made)


def test_without_a_text_only_the_weights_are_told():
    made = synthetic.results(text="")
    text = lead(made) + said(made)
    assert "No held-out text was given" in text
    assert "what that does to the models is not known" in text
    for word in ("KL", "loss ", "near", "lost", "finite", "Is restoration"):
        assert word not in text
    sizes = ends([made.variants[name].change for name in RAW], percent)
    assert f"Ablation with raw signs (eqs. 10 and 15): change of the weights {sizes}." in text
    assert "arbitrary where" in text


def test_outputs_that_are_not_finite_are_told():
    made = synthetic.results(overridden=synthetic.lost("ablation_U_FFN", "restoration_U_SA"))
    text = said(made)
    assert "3 are near the original (V in attention, V in MLP and U in MLP)" in text
    assert "1 is without finite outputs (U in attention)" in text
    assert "Of 4 that raw signs lose or leave without finite outputs" in text
    assert "nan" not in text + lead(made)
    every = synthetic.results(overridden=synthetic.lost(*VARIANTS))
    assert "all 4 are without finite outputs" in lead(every)
    assert "nan" not in said(every) + lead(every)
    assert "Is restoration" not in said(every)


def test_an_original_without_finite_outputs_says_so():
    made = synthetic.results(
        overridden=synthetic.lost(*VARIANTS), fields={"original_loss": math.nan}
    )
    assert "outputs of the original itself are not finite" in lead(made)
    assert "KL" not in said(made)


def test_nothing_made_and_one_model_made():
    none = synthetic.results(names=(), fields={"original_loss": math.nan})
    assert lead(none).startswith("No model was constructed")
    assert findings(none) == []
    one = synthetic.results(names=("restoration_V_SA",))
    assert lead(one).startswith("1 model was constructed")
    assert "Restoration: 1 is near the original." in lead(one)


def test_rank_deficient_matrices_are_counted():
    changes = {"q_proj": synthetic.change(0.1, deficient=3), "o_proj": synthetic.change(0.1)}
    made = synthetic.results(overridden={"restoration_V_SA": {"projections": changes}})
    assert "1 of 16 models are made of numerically rank-deficient matrices (up to 3" in said(made)
    assert "deficient" not in said(synthetic.results())


def test_a_change_of_nothing_is_no_division_by_zero():
    made = synthetic.results(restoration=(0.0, 0.0), other=(0.0, 0.0), replaced=(0.0, 0.0))
    assert "all 4 are near the original" in lead(made)
    assert "Is restoration" not in said(made)


def test_models_are_grouped_by_what_was_done():
    groups = grouped(synthetic.results().variants.values())
    assert list(groups) == ["replaced", "restoration", "other", "raw", "aligned"]
    assert [len(members) for members in groups.values()] == [2, 4, 2, 4, 4]
    strange = synthetic.model("replaced", 0.1, 0.1, construction="eq99", title="new")
    assert group_of(strange) == "unknown"
    assert short(strange) == "new"
    assert short(synthetic.model("replaced", 0.1, 0.1, modules="mlp")) == "eq. 9 in MLP"
