"""Settings, declared once: default, help and check of a dataclass field make flag and config leaf.

    @dataclass(frozen=True, kw_only=True)
    class ProbeOptions:
        limit: int = setting(100, "Take the first prompts only; 0 takes all.", least=0)

`Flags` makes the absl flags of a command from such classes, `leaves` the leaves of a config, and
`faults` says what is wrong with the values of an instance, in the spelling the user gave them in.
Imports no numpy and no jax: ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from absl import flags

from svdjax.errors import InputError

# The flags defined here are those of the module that asks for them.
flags.disclaim_key_flags()

Spelling = Callable[[str], str]
"""From a field's name to what the user wrote: ``limit`` to ``--limit``."""

_KEY = "setting"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is declared of a field.

    Attributes:
        help: What it does, for ``--help``.
        choices: The values that are allowed; those of a tuple's items are checked by its class.
        least: Smallest number allowed.
        below: Number that the value has to stay under.
        expected: What a fault says was expected, where the bounds alone do not say it well.
    """

    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    below: float | None = None
    expected: str = ""

    def fault(self, value: Any) -> str:
        """What was expected instead of `value`; empty where it is allowed."""
        if self.choices and isinstance(value, str) and value not in self.choices:
            return self.expected or " or ".join(self.choices)
        if isinstance(value, int | float):
            if self.least is not None and not self.least <= value < math.inf:
                return self.expected or f"{self.least:g} or more"
            if self.below is not None and value >= self.below:
                return self.expected or f"less than 2^{math.log2(self.below):g}"
        return ""


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    choices: Collection[str] = (),
    least: float | None = None,
    below: float | None = None,
    expected: str = "",
) -> Any:
    """A dataclass field with the declaration of a `Setting`; without a default it is required."""
    about = Setting(help, tuple(choices), least, below, expected)
    return dataclasses.field(default=default, metadata={_KEY: about})


def settings(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Setting]]:
    """The fields of a dataclass that are settings, in order."""
    return {
        field.name: (field, field.metadata[_KEY])
        for field in dataclasses.fields(kind)
        if _KEY in field.metadata
    }


def as_flag(name: str) -> str:
    """The spelling of a flag."""
    return f"--{name}"


def as_leaf(section: str = "") -> Spelling:
    """The spelling of a config's leaves, of a section or outside of all."""
    prefix = f"config.{section}." if section else "config."
    return lambda name: prefix + name


def faults(options: Any, spell: Spelling = as_flag) -> list[str]:
    """What is wrong with the values of a dataclass by their declarations, a sentence each."""
    declared = settings(type(options)).items()
    missing = [
        f"{spell(name)} is not given"
        for name, (field, _) in declared
        if field.default is dataclasses.MISSING and not getattr(options, name)
    ]
    wrong = [
        f"{spell(name)}={value}: expected {expected}"
        for name, (field, about) in declared
        if (value := getattr(options, name)) != field.default and (expected := about.fault(value))
    ]
    return missing + wrong


def leaves(kind: type, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Config leaves of a dataclass: name (``section.leaf``) to default value and help.

    A field that is itself a dataclass of settings is a section.
    """
    hints = typing.get_type_hints(kind)
    found: dict[str, tuple[Any, str]] = {}
    for field in dataclasses.fields(kind):
        if _KEY in field.metadata:
            about = field.metadata[_KEY]
            told = all(choice in about.help for choice in about.choices)
            text = about.help if told else f"{about.help} One of {', '.join(about.choices)}."
            found[prefix + field.name] = (field.default, text)
        elif dataclasses.is_dataclass(section := hints[field.name]):
            found |= leaves(typing.cast(type, section), f"{prefix}{field.name}.")
    return found


def from_leaves(kind: type, values: Mapping[str, Any], spell: Spelling | None = None) -> Any:
    """An instance from a config's leaves; where a tuple is wanted, one value stands for itself.

    Raises:
        InputError: There is a leaf that the dataclass has not.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
            raise InputError(f"{(spell or as_leaf())(name)}: there is no such leaf; {hint}")
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            given[name] = from_leaves(typing.cast(type, hint), value or {}, as_leaf(name))
        elif typing.get_origin(hint) is tuple:
            alone = isinstance(value, str) or not isinstance(value, Collection)
            given[name] = (value,) if alone else tuple(value)
        else:
            given[name] = value
    return kind(**given)


class Flags:
    """The absl flags of a command, made from one dataclass of settings or several.

    A setting that several classes declare is one flag, with the first one's default and help.
    """

    def __init__(
        self, *kinds: type, choices: Mapping[str, Collection[str]] = types.MappingProxyType({})
    ):
        """Defines them.

        Args:
            *kinds: Dataclasses whose `setting` fields become flags.
            choices: Allowed values of flags where no class knows them all.
        """
        self._holders: dict[str, flags.FlagHolder[Any]] = {}
        for kind in kinds:
            hints = typing.get_type_hints(kind)
            for name, (field, about) in settings(kind).items():
                if name not in self._holders:
                    allowed = tuple(choices.get(name, about.choices))
                    self._holders[name] = _define(name, field.default, hints[name], about, allowed)

    def values(self, kind: type) -> dict[str, Any]:
        """The values of a dataclass's settings as the flags have them."""
        hints = typing.get_type_hints(kind)
        found = {}
        for name in settings(kind):
            value = self._holders[name].value
            if hints[name] is str:
                value = value or ""
            elif typing.get_origin(hints[name]) is tuple:
                value = tuple(value or ())
            found[name] = value
        return found

    def idle(self, kind: type) -> list[str]:
        """Flags that were given and that a dataclass has no setting for."""
        known = settings(kind)
        return [name for name, each in self._holders.items() if each.present and name not in known]


def _define(
    name: str, default: Any, hint: Any, about: Setting, choices: tuple[str, ...]
) -> flags.FlagHolder[Any]:
    start = None if default is dataclasses.MISSING else default
    if typing.get_origin(hint) is tuple:
        return flags.DEFINE_list(name, None if start is None else list(start), about.help)
    if choices:
        return flags.DEFINE_enum(name, start or None, list(choices), about.help)
    define: Any = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
    }.get(hint, flags.DEFINE_string)
    return define(name, start, about.help)
