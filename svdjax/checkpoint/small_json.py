"""JSON files that describe a model, an adapter or settings: bounded objects, values of known types.

They are as untrusted as the checkpoint that they come with. Depth, number of values and size of
numbers are bounded once, where a file is read; type and range of a value where it is used, by the
functions whose `what` names file and field.
"""

from __future__ import annotations

import collections
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from svdjax.errors import InputError, printable
from svdjax.files import MOST_JSON_BYTES, one_line, read_bytes

MOST_DEPTH = 64
MOST_VALUES = 1_000_000  # some hundred bytes each once they are read
MOST_CONTAINERS = 100_000
_MOST_BITS = 1000  # of a whole number: a float holds it
_MOST_TEXT = 4096  # characters, as many as a path has
_SHOWN = 200  # characters of a value in a message


def read_object(path: pathlib.Path, most: int = MOST_JSON_BYTES) -> dict[str, Any]:
    """JSON object of a file, bounded before it is parsed as well as after.

    Raises:
        InputError: As `svdjax.files.read_bytes`, `parse_object` or `bounded`.
    """
    text = read_bytes(path, most)
    # Signs inside of texts are counted too: the counts are never too small.
    _at_most(text.count(b"[") + text.count(b"{"), MOST_CONTAINERS, "lists and objects", str(path))
    _at_most(text.count(b","), MOST_VALUES, "values", str(path))
    return bounded(parse_object(text, str(path)), str(path))


def parse_object(text: bytes, where: str) -> dict[str, Any]:
    """JSON object in a text of the file `where`.

    Raises:
        InputError: The text is no JSON object, repeats a key, or holds too many values.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        parsed = dict(pairs)
        if len(parsed) < len(pairs):
            counts = collections.Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise InputError(f"{where}: {twice!r} occurs twice; expected each name once")
        return parsed

    # Signs inside of strings are counted too: no file that describes a model comes near.
    if sum(text.count(sign) for sign in (b",", b"[", b"{")) > MOST_VALUES:
        raise InputError(f"{where}: holds more than {MOST_VALUES} values; expected fewer")
    try:
        if text.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError("it is UTF-16, expected UTF-8")
        parsed = json.loads(text.decode("utf-8-sig"), object_pairs_hook=unique)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: is not valid JSON ({one_line(error)})") from None
    if not isinstance(parsed, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(parsed).__name__}")
    return parsed


def bounded(parsed: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Parsed object, checked for depth, number of values and size of whole numbers.

    Args:
        parsed: Object from JSON.
        where: Path of the file, for messages.

    Raises:
        InputError: They are not within bounds.
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
    """Whole number in `least`..`most`; raises `InputError` for any other value."""
    if type(value) is not int or not least <= value <= most:
        raise InputError(
            f"{what}: expected a whole number in {least}..{most}, found {shown(value)}"
        )
    return value


def number(
    value: Any, what: str, least: float = -1e30, most: float = 1e30, *, above: float = -math.inf
) -> float:
    """Finite number within bounds, by default those within which float32 is safe.

    Raises:
        InputError: The value is none.
    """
    # Comparing is exact and never overflows, whatever the size of an int; NaN is in no range.
    if type(value) not in (int, float) or not (least <= value <= most and value > above):
        limits = f" in {least:g}..{most:g}" if least > -1e30 or most < 1e30 else ""
        limits = f" above {above:g}" if above > -math.inf else limits
        raise InputError(f"{what}: expected a number{limits}, found {shown(value)}")
    return float(value)


def flag(value: Any, what: str) -> bool:
    """Boolean, False for null; raises `InputError` for any other value."""
    if not isinstance(value, bool | None):
        raise InputError(f"{what}: expected true or false, found {shown(value)}")
    return bool(value)


def text(value: Any, what: str) -> str:
    """Text of a line, empty for null; raises `InputError` for any other value."""
    if not isinstance(value, str | None) or len(value or "") > _MOST_TEXT:
        raise InputError(f"{what}: expected a text of a line, found {shown(value)}")
    return value or ""


def names(value: Any, what: str, most: int) -> tuple[str, ...]:
    """List of at most `most` names, empty for null; raises `InputError` for any other value."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) and name for name in value
    ):
        raise InputError(f"{what}: expected a list of names, found {shown(value)}")
    _at_most(len(value), most, "names", what)
    return tuple(value)


def shown(value: Any) -> str:
    """Value of any kind as messages show it, shortened."""
    try:
        return printable(repr(value), _SHOWN)
    except (ValueError, RecursionError):  # too many digits, or too deep
        return f"a {type(value).__name__}"
