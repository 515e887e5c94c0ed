"""The leaves of a sweep's config, and how a config file reads its argument.

Config files import this module and `ml_collections`, nothing else: ``--help`` and flag errors
answer before jax is loaded. Structure goes in the argument after the colon, leaves are set with
``--config.leaf=value``.
"""

from __future__ import annotations

import difflib
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from svdjax.errors import InputError

OPTIONS: Mapping[str, tuple[Any, str]] = {
    "factorisation": (
        "svd_f64",
        "How matrices are factorised: svd_f64 (double precision, the default) or svd_f32 "
        "(single precision; its error estimate is stored with the results).",
    ),
    "corner": (25, "Leading singular directions whose similarity matrices are kept and drawn."),
    "split_fused": (
        False,
        "Split fused projections (phi3's qkv_proj and gate_up_proj) into their parts. "
        "The paper keeps them fused.",
    ),
    "group_bytes": (
        256 * 2**20,
        "Host bytes of one group of layers, both checkpoints as stored. Smaller groups use less "
        "memory and lose less work when a sweep is killed.",
    ),
    "devices": (0, "Devices to spread the layers over; 0 takes all."),
    "full_hash": (
        False,
        "Fingerprint the input files by every byte instead of by header and sampled blocks.",
    ),
    "stages": (("spectra", "report"), "What to do, in this order: spectra, report."),
}
"""Every leaf but `name` and `pairs`: default value, and what it does."""


def default_config(name: str, pairs: Mapping[str, Mapping[str, Any]]) -> ConfigDict:
    """Builds a locked sweep config.

    Args:
      name: name of the config; the default workdir is ``runs/<name>``.
      pairs: pair name to ``{"base": …, "post": …, "paper": …}``. Base and post are directories or
        hub ids (``org/name`` or ``org/name@revision``). ``paper`` is optional and names the column
        of the paper's tables 3 and 4 to print beside the measurement, as
        ``"Qwen2.5-Math-1.5B/instruct"``.

    Returns:
      A locked `ConfigDict` with `name`, `pairs` and every leaf of `OPTIONS`.
    """
    config = ConfigDict({leaf: default for leaf, (default, _) in OPTIONS.items()})
    config.name = name
    config.pairs = ConfigDict()
    for pair, sides in pairs.items():
        config.pairs[pair] = ConfigDict(
            {"base": sides["base"], "post": sides["post"], "paper": sides.get("paper", "")}
        )
    return config.lock()


def parse_argument(argument: str | None, known: Iterable[str]) -> dict[str, str]:
    """Reads the part of ``--config=file.py:key=value,…`` after the colon.

    The text is split at commas that are followed by a known ``key=``, then at the first ``=``; so
    values may hold commas, colons and equals signs. ``~`` is expanded in values.

    Args:
      argument: the text after the colon, or None when there is none.
      known: the keys this config understands.

    Returns:
      The given keys with their values.

    Raises:
      InputError: an unknown key, a key without value, or a key given twice.
    """
    known = tuple(known)
    if not argument:
        return {}
    if known:
        keys = "|".join(re.escape(key) for key in known)
        pieces = re.split(rf",(?=(?:{keys})=)", argument)
    else:
        pieces = [argument]
    values: dict[str, str] = {}
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if key not in known:
            raise InputError(_unknown_key(key, known))
        if not equals or not value:
            raise InputError(f"config argument {key!r} has no value: write {key}=VALUE")
        if key in values:
            raise InputError(f"config argument {key!r} is given twice: in {argument!r}")
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
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown config argument {key!r}; {hint}"
