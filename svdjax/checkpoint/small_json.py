"""JSON files that describe a model, an adapter or settings: bounded objects, values of known types.

They come with a checkpoint and are as untrusted. Depth, number of values and size of numbers are
bounded once, where a file is read; type and range of a value where it is used.
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Mapping
from typing import Any

from svdjax.checkpoint import files
from svdjax.errors import InputError, printable

MOST_DEPTH = 64
MOST_VALUES = 1_000_000
MOST_CONTAINERS = 100_000
_MOST_BITS = 1000  # of a whole number: a float holds it
_MOST_TEXT = 4096  # characters, as many as a path has
_SHOWN = 200  # characters of a value in a message


def read_object(path: pathlib.Path, most: int = files.MOST_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file, bounded before it is parsed as well as after.

    Raises:
        InputError: As `files.read_json`, or as `bounded`.
    """
    text = files.read_bytes(path, most)
    # Their signs may be part of texts: this finds too many, never too few.
    _at_most(text.count(b"[") + text.count(b"{"), MOST_CONTAINERS, "lists and objects", str(path))
    _at_most(text.count(b","), MOST_VALUES, "values", str(path))
    return bounded(files.parse_object(text, str(path)), str(path))


def bounded(parsed: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A parsed object whose depth, number of values and whole numbers are within bounds.

    Args:
        parsed: The object.
        where: The file, for messages.

    Raises:
        InputError: They are not.
    """
    level: list[Any] = [parsed]
    depth = containers = values = 0
    while level:
        depth += 1
        containers += len(level)
        if depth > MOST_DEPTH:
            raise InputError(f"{where}: nests deeper than {MOST_DEPTH}, expected less")
        _at_most(containers, MOST_CONTAINERS, "lists and objects", where)
        inner: list[Any] = []
        for container in level:
            members = container.values() if isinstance(container, Mapping) else container
            values += len(container)
            _at_most(values, MOST_VALUES, "values", where)
            for member in members:
                if isinstance(member, Mapping | list | tuple):
                    inner.append(member)
                elif isinstance(member, int) and member.bit_length() > _MOST_BITS:
                    raise InputError(f"{where}: a number of more than 300 digits, expected fewer")
        level = inner
    return dict(parsed)


def _at_most(count: int, most: int, what: str, where: str) -> None:
    if count > most:
        raise InputError(f"{where}: more than {most} {what}, expected fewer")


def whole(value: Any, what: str, least: int, most: int) -> int:
    """A whole number; `what` names file and field. Raises `InputError`."""
    if type(value) is not int or not least <= value <= most:
        raise InputError(
            f"{what}: expected a whole number in {least}..{most}, found {shown(value)}"
        )
    return value


def number(
    value: Any, what: str, least: float = -1e30, most: float = 1e30, *, above: float = -math.inf
) -> float:
    """A finite number; `what` names file and field. Raises `InputError`.

    The default bounds are those within which float32 is safe.
    """
    # Comparing is exact and never overflows, whatever the size of an int; NaN is in no range.
    if type(value) not in (int, float) or not (least <= value <= most and value > above):
        limits = f" in {least:g}..{most:g}" if least > -1e30 or most < 1e30 else ""
        limits = f" above {above:g}" if above > -math.inf else limits
        raise InputError(f"{what}: expected a number{limits}, found {shown(value)}")
    return float(value)


def flag(value: Any, what: str) -> bool:
    """true or false, which null is; `what` names file and field. Raises `InputError`."""
    if not isinstance(value, bool | None):
        raise InputError(f"{what}: expected true or false, found {shown(value)}")
    return bool(value)


def text(value: Any, what: str) -> str:
    """A text, empty for null; `what` names file and field. Raises `InputError`."""
    if not isinstance(value, str | None) or len(value or "") > _MOST_TEXT:
        raise InputError(f"{what}: expected a text of a line, found {shown(value)}")
    return value or ""


def names(value: Any, what: str, most: int) -> tuple[str, ...]:
    """A list of names, none for null; `what` names file and field. Raises `InputError`."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) and name for name in value
    ):
        raise InputError(f"{what}: expected a list of names, found {shown(value)}")
    _at_most(len(value), most, "names", what)
    return tuple(value)


def shown(value: Any) -> str:
    """A value as messages show it: short, and whatever it is."""
    try:
        return printable(repr(value), _SHOWN)
    except (ValueError, RecursionError):  # too many digits, or too deep
        return f"a {type(value).__name__}"
