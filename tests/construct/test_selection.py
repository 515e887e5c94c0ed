"""Choosing matrices and alpha', and the recipes as data: hostile input included."""

from __future__ import annotations

from typing import Any

import pytest

from svdjax.checkpoint import patterns
from svdjax.construct.alpha import Alpha
from svdjax.construct.recipes import RECIPES, VARIANTS, get_recipe
from svdjax.construct.selection import Layers, Modules, site_of
from svdjax.errors import InputError

SITES = ["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", (0, 1, 2, 3, 4)),
        ("-", (0, 1, 2, 3, 4)),
        ("2", (2,)),
        ("0-2,4", (0, 1, 2, 4)),
        ("3-", (3, 4)),
        ("-1", (0, 1)),
        (" 4 , 0 ,0-0", (0, 4)),
        ("004", (4,)),
    ],
)
def test_layers(text, wanted):
    assert Layers.parse(text).choose(5) == wanted


@pytest.mark.parametrize(
    "text", ["a", "1..3", "--", "1-2-3", "1,,2", ",", "-1-", "1e3", "９", "0x1", "+1", "1" * 30]
)
def test_layers_that_are_none(text):
    with pytest.raises(InputError, match="layers"):
        Layers.parse(text)


@pytest.mark.parametrize("text", ["5", "0-5", "3-999999", "999999"])
def test_layers_that_are_not_there(text):
    with pytest.raises(InputError, match="5 layers 0-4"):
        Layers.parse(text).choose(5)


def test_layers_as_numbers():
    assert Layers.of(None) == Layers.parse("")
    assert Layers.of(iter([3, 1])).choose(5) == (1, 3)
    wrongs: tuple[Any, ...] = ([], [-1], [5], [1.5], "0-3")
    for wrong in wrongs:
        with pytest.raises(InputError):
            Layers.of(wrong).choose(5)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("all", [0, 1, 2, 3]),
        ("self_attn", [0, 1]),
        ("mlp", [2, 3]),
        ("o_proj", [1]),
        ("o_|up", [1, 2]),
        (r"^mlp\.", [2, 3]),
        (r"(?i)MLP", [2, 3]),
    ],
)
def test_modules(text, wanted):
    assert Modules(text).choose(SITES) == [SITES[i] for i in wanted]


@pytest.mark.parametrize(
    "text", ["", "(", "[", "*", "(?P<", "attn", "proj", "q.proj$x", "a{99999999999999}", "(" * 3000]
)
def test_modules_that_are_none(text):
    with pytest.raises(InputError) as caught:
        Modules(text).choose(SITES)
    assert "\n" not in str(caught.value)


def test_modules_that_take_for_ever(monkeypatch):
    monkeypatch.setattr(patterns, "_SECONDS", 0.5)
    with pytest.raises(InputError, match=r"modules '\(a\|a\)\*b' takes more than 0.5 s"):
        Modules("(a|a)*b").choose(["a" * 40])


def test_sites_of_paths():
    assert site_of("layers/self_attn/q_proj/kernel") == "self_attn.q_proj"
    assert site_of("lm_head/kernel") == "lm_head"


def test_alpha_by_name_and_number():
    assert Alpha.parse("auto").measured
    assert Alpha.parse("auto_raw").measured
    assert Alpha.parse("0.9").of(["q_proj", "k_proj"]) == {"q_proj": 0.9, "k_proj": 0.9}


@pytest.mark.parametrize(
    "text", ["0", "-1", "nan", "inf", "1e400", "", "auto_", "1,5", "/etc", "~x"]
)
def test_alpha_that_is_none(text):
    with pytest.raises(InputError, match="alpha"):
        Alpha.parse(text)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "1",
        "[0.9]",
        '{"q_proj": "0.9"}',
        '{"q_proj": true}',
        '{"q_proj": null}',
        '{"q_proj": {"q": 1}}',
        '{"q_proj": NaN}',
        '{"q_proj": Infinity}',
        '{"q_proj": 1e400}',
        '{"q_proj": 1' + "0" * 400 + "}",
        '{"q_proj": 0}',
        '{"q_proj": 1, "q_proj": 2}',
        '{"q_proj": 1, "k_proj": 2}',
        "{}",
        "[" * 99_999,
    ],
)
def test_alpha_files_that_do_not_fit(content, tmp_path):
    path = tmp_path / "alpha.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"alpha\.json") as caught:
        Alpha.parse(str(path)).of(["q_proj"])
    assert "\n" not in str(caught.value)


def test_recipes_know_what_enters():
    assert [r.number for r in RECIPES.values()] == [9, 10, 11, 12, 14, 15, 16]
    for recipe in RECIPES.values():
        assert recipe.scaled == ("α" in recipe.formula)
        assert (recipe.partner == "other") == ("other" in recipe.formula)
        assert recipe.everywhere == recipe.values_only
    with pytest.raises(InputError, match="did you mean 'eq11'"):
        get_recipe("eq111")


def test_variants_are_those_of_the_paper():
    raw = [v for v in VARIANTS.values() if v.appendix_d]
    assert len(raw) == 8
    crossed = {(v.recipe.number, v.modules) for v in raw}
    assert crossed == {(n, m) for n in (10, 15, 11, 16) for m in ("self_attn", "mlp")}
    # Table 2's row, eq. 11 on attention, is the one that Table 7 calls "SA, in".
    assert VARIANTS["restoration_V_SA"].table_7 == "restoration, SA, in"
    assert VARIANTS["restoration_V_SA"].appendix_d == "restoration, SA, out"
    aligned = [v for v in VARIANTS.values() if v.signs == "aligned"]
    assert {v.recipe.name for v in aligned} == {"eq10", "eq15"}
    assert {v.recipe.name for v in VARIANTS.values()} == set(RECIPES)
