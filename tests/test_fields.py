"""A setting is declared once: flag, config leaf, check and message come from it."""

from __future__ import annotations

import dataclasses
import functools
import math

import pytest
from absl import flags

from svdjax import fields
from svdjax.errors import InputError
from svdjax.fields import Flags, as_flag, as_leaf, setting
from svdjax.sweep.config import Settings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = setting(3, "How wide.", least=1)
    kinds: tuple[str, ...] = setting(("a", "b"), "Which.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    path: str = setting(help="Where.")
    form: str = setting("", "In which form.", choices=("x", "y"))
    seed: int = setting(0, "Of the draws.", least=0, below=2**32)
    heat: float = setting(0.5, "How hot.", least=0, expected="0 or a little more")
    note: str | None = setting(None, "May be left out.")
    inner: Inner = dataclasses.field(default_factory=Inner)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, ""),
        ({"form": "y"}, ""),
        ({"form": "z"}, "{form}=z: expected x or y"),
        ({"seed": -1}, "{seed}=-1: expected 0 or more"),
        ({"seed": 2**32 - 1}, ""),
        ({"seed": 2**32}, "{seed}=4294967296: expected less than 2^32"),
        ({"heat": -0.1}, "{heat}=-0.1: expected 0 or a little more"),
        ({"heat": math.nan}, "{heat}=nan: expected 0 or a little more"),
        ({"heat": math.inf}, "{heat}=inf: expected 0 or a little more"),
        ({"path": ""}, "{path} is not given"),
    ],
)
def test_a_fault_is_told_in_the_spelling_of_whom_it_concerns(values, words):
    options = Outer(**({"path": "p"} | values))
    for spell in (as_flag, as_leaf("part"), as_leaf()):
        names = {name: spell(name) for name in ("form", "seed", "heat", "path")}
        assert fields.faults(options, spell) == ([words.format(**names)] if words else [])


def test_leaves_have_sections_defaults_and_help():
    leaves = fields.leaves(Outer)
    assert leaves["inner.width"] == (3, "How wide.")
    assert leaves["form"] == ("", "In which form. One of x, y.")
    assert list(leaves)[-2:] == ["inner.width", "inner.kinds"]


def test_an_instance_is_read_from_leaves():
    read = fields.from_leaves(Outer, {"path": "p", "inner": {"width": 5, "kinds": "a"}})
    assert read == Outer(path="p", inner=Inner(width=5, kinds=("a",)))
    with pytest.raises(InputError, match=r"config\.inner\.widht: .*did you mean 'width'"):
        fields.from_leaves(Outer, {"path": "p", "inner": {"widht": 5}})


def test_flags_carry_their_values_and_tell_who_ignores_them(monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, "FLAGS", values)
    for name in ("string", "bool", "integer", "float", "list", "enum"):
        define = getattr(flags, f"DEFINE_{name}")
        bound = functools.partial(define, flag_values=values)
        monkeypatch.setattr(flags, f"DEFINE_{name}", bound)
    made = Flags(Outer, Inner)
    values(["command", "--path=p", "--seed=4", "--kinds=a,c"])
    assert made.values(Inner) == {"width": 3, "kinds": ("a", "c")}
    assert made.values(Outer) == {"path": "p", "form": "", "seed": 4, "heat": 0.5, "note": None}
    assert made.idle(Inner) == ["path", "seed"]
    assert made.idle(Outer) == ["kinds"]
    with pytest.raises(flags.IllegalFlagValueError):
        values(["command", "--form=z"])


def test_every_setting_explains_itself():
    for name, (_, text) in fields.leaves(Settings).items():
        assert text.endswith("."), name
    assert Settings().faults() == []
