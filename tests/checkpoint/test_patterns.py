"""Regular expressions of adapters and flags: exact, bounded, and no process for plain names."""

from __future__ import annotations

import re
import subprocess
import time
from typing import Any

import pytest

from svdjax.checkpoint import patterns
from svdjax.checkpoint.adapted import AdaptedModules
from svdjax.checkpoint.lora import LoraConfig
from svdjax.checkpoint.patterns import Rule, matched
from svdjax.construct.selection import Modules
from svdjax.errors import InputError
from tests.checkpoint.test_adapter import import_peft

NAMES = [
    f"model.{part}layers.{layer}.{module}"
    for part in ("", "vision.")
    for layer in (0, 1, 11)
    for module in ("self_attn.q_proj", "mlp.down_proj", "mlp.gate", "x_proj")
] + ["lm_head", "layers.1.h.3.mlp.down_proj", "q_proj", "layers.²", "model.layers.٣.q_proj"]
HOSTILE = [r"(\w+\.?)*!", "(a|a|.)*?(b|.)*c{9}!", r"(.*)*\1!", "(?=(.*)+!)x"]


@pytest.mark.parametrize("how", ["match", "fullmatch", "search"])
@pytest.mark.parametrize(
    "pattern",
    ["^(?!.*vision).*proj$", r".*\.(?P<idx>\d+)\.", "q_proj", "", r"(?i)Q_PROJ|\bx", r"(.)\1"],
)
def test_as_re_does(how: str, pattern: str) -> None:
    rules = [Rule(pattern, how, "x"), Rule("lm_head", "fullmatch", "x")]
    hits = {name: getattr(re.compile(pattern), how)(name) for name in NAMES}
    expected = {name: hit.groupdict().get("idx") for name, hit in hits.items() if hit}
    assert matched(rules, NAMES, "") == (expected, {"lm_head": None})


@pytest.mark.parametrize("pattern", HOSTILE)
def test_too_long_is_told_by_what_is_written(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 0.5)
    rules = [Rule("a", "search", "the first"), Rule(pattern, "search", "the second")]
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^the second takes more than 0\.5 s .*; simplify it$"):
        matched([*rules, Rule("b", "search", "the third")], ["a" * 40_000], "simplify it")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("pattern", ["(", "*", "(?P<", "a{99999999999999}", "(" * 3000, "\\"])
def test_none_at_all(pattern: str) -> None:
    with pytest.raises(InputError, match=r"^flag is no regular expression \(.*\); mend it$"):
        matched([Rule(pattern, "search", "flag")], NAMES, "mend it")


def test_a_process_that_is_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(InputError, match="cannot be started"):
        matched([Rule("a.b", "search", "flag")], ["never asked before"], "")


def config(**fields: Any) -> LoraConfig:
    return LoraConfig("adapter_config.json", rank=8, alpha=16.0, **fields)


def test_names_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", None)
    rules = AdaptedModules(
        config(
            targets=("q_proj", "mlp.down_proj"),
            excluded="lm_head",
            ranks={"q_proj": 2, "down_proj": 3},
            alphas={"q_proj": 4.0},
            layers=frozenset((1, 3)),
            layers_patterns=("h", "layers"),
        ),
        NAMES,
    )
    assert [name for name in NAMES if rules.targets(name)] == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.down_proj",
        "model.vision.layers.1.self_attn.q_proj",
        "model.vision.layers.1.mlp.down_proj",
        "layers.1.h.3.mlp.down_proj",
        "q_proj",
        "model.layers.٣.q_proj",
    ]
    assert [rules.rank_of(name) for name in NAMES[:4]] == [2, 3, 8, 8]
    assert [rules.scaling(name) for name in NAMES[:3]] == [2.0, 16 / 3, 2.0]
    assert Modules("mlp").choose(["mlp.up_proj", "x.y"]) == ["mlp.up_proj"]


CHOICES: list[dict[str, Any]] = [
    {"targets": "^(?!.*vision).*proj$"},
    {"targets": r".*\.(q_proj|mlp\..*)", "excluded": r".*vision.*"},
    {"targets": ("q_proj", "layers.1.mlp.down_proj"), "excluded": ("mlp.down_proj",)},
    {"targets": "q_proj"},
    {"targets": ""},
    {"targets": ("down_proj", "q_proj"), "layers": frozenset((1, 11))},
    {"targets": ("down_proj",), "layers": frozenset((1, 3)), "layers_patterns": ("h", "layers")},
    {"targets": ("down_proj", "proj"), "layers": frozenset((11,)), "layers_patterns": ("la.*s",)},
]


@pytest.mark.parametrize("fields", CHOICES, ids=str)
def test_modules_are_those_of_peft(fields: dict[str, Any]) -> None:
    peft = import_peft()
    utils = pytest.importorskip("peft.tuners.tuners_utils")
    lists = {k: list(v) if isinstance(v, tuple | frozenset) else v for k, v in fields.items()}
    theirs = peft.LoraConfig(
        target_modules=lists["targets"],
        exclude_modules=lists.get("excluded"),
        layers_to_transform=lists.get("layers"),
        layers_pattern=lists.get("layers_patterns"),
    )
    rules = AdaptedModules(config(**fields), NAMES)
    # PEFT's module names are below the wrapper's; a layer's number is ASCII in all of them.
    for name in NAMES[:-2]:
        expected = bool(utils.check_target_module_exists(theirs, name))
        assert rules.targets(name) == expected, name


def test_the_first_pattern_counts_as_in_peft() -> None:
    import_peft()
    other = pytest.importorskip("peft.utils.other")
    keys = ["down_proj", r"layers\.1\.mlp.down_proj", ".*vision.*", "q.proj", r"^model\.layers"]
    rules = AdaptedModules(config(ranks={key: n + 100 for n, key in enumerate(keys)}), NAMES)
    for name in NAMES:
        key = other.get_pattern_key(keys, name)
        assert rules.rank_of(name) == (keys.index(key) + 100 if key in keys else 8), name
