"""Settings, declared once: default, help and check of a dataclass field make flag and config leaf.

    @dataclass(frozen=True, kw_only=True)
    class ProbeOptions:
        limit: int = setting(100, "Take the first prompts only; 0 takes all.", least=0)

`Flags` makes the absl flags of a command from such classes, `leaves` the leaves of a config, and
`faults` checks the values of an instance, in the spelling that the user has written. Imports no
numpy and no jax: ``--help`` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from absl import flags

from svdjax.errors import InputError, did_you_mean

# The flags defined here are those of the module that asks for them.
flags.disclaim_key_flags()

Spelling = Callable[[str], str]
"""Function from a field's name to the user's spelling: ``limit`` to ``--limit``."""

_KEY = "setting"


@dataclasses.dataclass(frozen=True)
class Setting:
    """Declaration of a field.

    Attributes:
        help: Its effect, for ``--help``.
        choices: Allowed values; items of a tuple are checked by its class.
        least: Smallest number allowed.
        below: Exclusive upper bound.
        expected: Expectation in messages of faults, where the bounds alone do not say it well.
    """

    help: str
    choices: tuple[str, ...] = ()
    least: float | None = None
    below: float | None = None
    expected: str = ""

    def fault(self, value: Any) -> str:
        """Expectation that `value` does not meet; empty where it is allowed."""
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
    declaration = Setting(help, tuple(choices), least, below, expected)
    return dataclasses.field(default=default, metadata={_KEY: declaration})


def settings(kind: type) -> dict[str, tuple[dataclasses.Field[Any], Setting]]:
    """Fields of a dataclass that are settings, in order, with their declarations."""
    return {
        field.name: (field, field.metadata[_KEY])
        for field in dataclasses.fields(kind)
        if _KEY in field.metadata
    }


def as_flag(name: str) -> str:
    """Spelling of a flag."""
    return f"--{name}"


def as_leaf(section: str = "") -> Spelling:
    """Spelling of a config's leaves, in a section or outside of all."""
    prefix = f"config.{section}." if section else "config."
    return lambda name: prefix + name


def faults(options: Any, spell: Spelling = as_flag) -> list[str]:
    """Faults of a dataclass's values by their declarations, one sentence each."""
    declared = settings(type(options)).items()
    missing = [
        f"{spell(name)} is not given"
        for name, (field, _) in declared
        if field.default is dataclasses.MISSING and not getattr(options, name)
    ]
    wrong = [
        f"{spell(name)}={value}: expected {expected}"
        for name, (field, rule) in declared
        if (value := getattr(options, name)) != field.default and (expected := rule.fault(value))
    ]
    return missing + wrong


def leaves(kind: type, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Config leaves of a dataclass: name (``section.leaf``) to default value and help.

    A field that is itself a dataclass of settings is a section.
    """
    hints = typing.get_type_hints(kind)
    by_name: dict[str, tuple[Any, str]] = {}
    for field in dataclasses.fields(kind):
        if _KEY in field.metadata:
            text, choices = field.metadata[_KEY].help, field.metadata[_KEY].choices
            if not all(choice in text for choice in choices):
                text = f"{text} One of {', '.join(choices)}."
            by_name[prefix + field.name] = (field.default, text)
        elif dataclasses.is_dataclass(section := hints[field.name]):
            by_name |= leaves(typing.cast(type, section), f"{prefix}{field.name}.")
    return by_name


def from_leaves(kind: type, values: Mapping[str, Any], spell: Spelling | None = None) -> Any:
    """An instance from a config's leaves; for a tuple, a single value stands for itself.

    Raises:
        InputError: There is a leaf that the dataclass does not have.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            hint = did_you_mean(name, names) or f"; known: {', '.join(names)}"
            raise InputError(f"{(spell or as_leaf())(name)}: there is no such leaf{hint}")
        if dataclasses.is_dataclass(hints[name]):
            value = from_leaves(typing.cast(type, hints[name]), value or {}, as_leaf(name))
        elif typing.get_origin(hints[name]) is tuple:
            is_single = isinstance(value, str) or not isinstance(value, Collection)
            value = (value,) if is_single else tuple(value)
        arguments[name] = value
    return kind(**arguments)


class Flags:
    """The absl flags of a command, defined by one dataclass of settings or several.

    A setting that several classes declare is one flag, with the first one's default and help.

    Args:
        *kinds: Dataclasses whose `setting` fields become flags.
        choices: Allowed values of flags where no class knows them all.
    """

    def __init__(
        self, *kinds: type, choices: Mapping[str, Collection[str]] = types.MappingProxyType({})
    ):
        self._holders: dict[str, flags.FlagHolder[Any]] = {}
        for kind in kinds:
            hints = typing.get_type_hints(kind)
            for name, (field, rule) in settings(kind).items():
                if name not in self._holders:
                    allowed = tuple(choices.get(name, rule.choices))
                    self._holders[name] = _define(
                        name, field.default, hints[name], rule.help, allowed
                    )

    def values(self, kind: type) -> dict[str, Any]:
        """Values of a dataclass's settings as the flags have them."""
        hints = typing.get_type_hints(kind)
        values = {}
        for name in settings(kind):
            value = self._holders[name].value
            if hints[name] is str:
                value = value or ""
            elif typing.get_origin(hints[name]) is tuple:
                value = tuple(value or ())
            values[name] = value
        return values

    def idle(self, kind: type) -> list[str]:
        """Flags on the command line that a dataclass has no setting for."""
        known = settings(kind)
        return [name for name, flag in self._holders.items() if flag.present and name not in known]


def _define(
    name: str, default: Any, hint: Any, text: str, choices: tuple[str, ...]
) -> flags.FlagHolder[Any]:
    default = None if default is dataclasses.MISSING else default
    if typing.get_origin(hint) is tuple:
        return flags.DEFINE_list(name, None if default is None else list(default), text)
    if choices:
        return flags.DEFINE_enum(name, default or None, list(choices), text)
    define: Any = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
    }.get(hint, flags.DEFINE_string)
    return define(name, default, text)
