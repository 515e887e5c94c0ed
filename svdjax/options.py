"""Leaves of a sweep's config, and the argument of a config file.

Config files import this module and `ml_collections`, nothing else, and neither loads jax. Structure
goes in the argument after the colon, leaves are set with ``--config.leaf=value``.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from svdjax.engine.pairs import PAIR_LEAVES
from svdjax.errors import InputError, did_you_mean
from svdjax.fields import leaves
from svdjax.sweep.config import Settings

OPTIONS: Mapping[str, tuple[Any, str]] = leaves(Settings)
"""Every leaf but `name` and `pairs` to default and help; leaves of sections have a dot."""


def default_config(
    name: str,
    pairs: Mapping[str, Mapping[str, Any]],
    *,
    trajectory: Iterable[str] = (),
    **defaults: Any,
) -> ConfigDict:
    """A locked sweep config.

    Args:
        name: Name of the config; the default workdir is ``runs/<name>``.
        pairs: Pair name to ``{"base": …, "post": …}`` and what else `PAIR_LEAVES` knows. Base and
            post are directories or hub ids (``org/name`` or ``org/name@revision``). ``paper`` names
            the column of the paper's tables 3 and 4 to print beside the measurement, as
            ``"Qwen2.5-Math-1.5B/instruct"``. The constructions stage makes models of every pair
            whose ``constructed`` is not False, restores from ``other``, another post model, in eq.
            12, and judges them on ``text``, a file of held-out text (svdjax/text/texts.py says in
            which form).
        trajectory: Labels of the points in order, where the pairs are those of a trajectory
            (`svdjax.sweep.trajectory`); the report then shows curves over them.
        **defaults: Other defaults for leaves of `OPTIONS`; for those of a section, a mapping under
            its name.

    Returns:
        A locked `ConfigDict` with `name`, `pairs` and every leaf of `OPTIONS`.
    """
    config = ConfigDict()
    for leaf, (default, _) in OPTIONS.items():
        section, _, key = leaf.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        parent: Any = config[section] if section else config
        value = (defaults.get(section, {}) if section else defaults).get(key, default)
        # A leaf without a value needs a type, so that flags can set it.
        parent[key] = config_dict.placeholder(str) if value is None else value
    config.name = name
    config.pairs = ConfigDict()
    for pair, entry in pairs.items():
        config.pairs[pair] = ConfigDict(
            {"base": entry["base"], "post": entry["post"]}
            | {key: entry.get(key, default) for key, default in PAIR_LEAVES.items()}
        )
    if trajectory := tuple(trajectory):
        config.trajectory = trajectory
    return config.lock()


def parse_argument(
    argument: str | None, known: Iterable[str] = (), words: Iterable[str] = ()
) -> dict[str, str]:
    """Keys and values of the part of ``--config=file.py:key=value,…`` after the colon.

    The text is split at commas that are followed by a known ``key=``, then at the first ``=``; so
    values may hold commas, colons and equals signs, but nothing like a misspelt key. ``~`` is
    expanded in values.

    Args:
        argument: The text after the colon, or None when there is none.
        known: Keys of this config.
        words: Arguments of this config without a value.

    Returns:
        The given keys with their values, a word with "".

    Raises:
        InputError: A key is unknown, without value, or given twice.
    """
    known, words = tuple(known), tuple(words)
    if not argument:
        return {}
    if argument in words:
        return {argument: ""}
    keys = "|".join(re.escape(key) for key in known)
    values: dict[str, str] = {}
    for part in re.split(rf",(?=(?:{keys})=)", argument) if known else [argument]:
        key, equals, value = part.partition("=")
        if key in words:
            raise InputError(f"config argument {key!r} takes no value: write {key} alone")
        if key not in known:
            raise InputError(_unknown_key(key, known + words))
        if not equals or not value:
            raise InputError(f"config argument {key!r} has no value: write {key}=VALUE")
        if key in values:
            raise InputError(f"config argument {key!r} is given twice: in {argument!r}")
        for inside in re.findall(r",(\w+)=", value):
            if did_you_mean(inside, known):
                raise InputError(_unknown_key(inside, known))
        values[key] = _expanded(key, value) if value.startswith("~") else value
    return values


def _expanded(key: str, value: str) -> str:
    try:
        return str(pathlib.Path(value).expanduser())
    except RuntimeError as error:
        raise InputError(
            f"config argument {key}={value}: there is no such home directory"
        ) from error


def _unknown_key(key: str, known: tuple[str, ...]) -> str:
    if not known:
        return f"this config takes no argument, found {key!r}; set leaves with --config.leaf=value"
    hint = did_you_mean(key, known) or f"; known: {', '.join(known)}"
    return f"unknown config argument {key!r}{hint}"
