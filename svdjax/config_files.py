"""Config files on the command line: by path or by name, their leaves, and what is wrong with one.

``--config=pair:base=D,post=D`` is a config that ships with svdjax, ``--config=mine.py:…`` a file.
"""

from __future__ import annotations

import difflib
import itertools
import pathlib
import re
import textwrap
from collections.abc import Iterable, Sequence

from svdjax.errors import InputError, did_you_mean

_PACKAGE = pathlib.Path(__file__).parent


def shipped_configs() -> dict[str, pathlib.Path]:
    """Paths of the configs that ship, by name."""
    # A checkout has them beside the package, an installed package in it.
    for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.py"))}
    return {}


def resolve_arguments(argv: Sequence[str]) -> tuple[list[str], str]:
    """Command line with the paths of configs for their names, and lists of words as tuples.

    Returns:
        The command line as `ml_collections` reads it, and the config as the user named it.

    Raises:
        InputError: There is no such config.
    """
    resolved, config = list(argv[:1]), ""
    taken = False
    for argument, following in itertools.zip_longest(argv[1:], argv[2:], fillvalue=""):
        if taken:  # the value of the flag before it
            taken = False
            continue
        name, equals, value = argument.partition("=")
        leaf = re.fullmatch(r"--?config\.([\w.]+)", name)
        is_config = name in ("--config", "-config")
        if not (is_config or (leaf and _takes_words(leaf[1]))) or not (equals or following):
            resolved.append(argument)
            continue
        taken, value = not equals, value if equals else following
        if is_config:
            config, value = value.partition(":")[0], _with_path(value)
        elif re.fullmatch(r"[^\s()\[\]'\",][^()\[\]'\"]*", value):
            value = repr(tuple(word.strip() for word in value.split(",") if word.strip()))
        resolved.append(f"{name}={value}")
    return resolved, config


def _with_path(value: str) -> str:
    """``path:argument`` of ``path:argument`` or ``name:argument``."""
    config, colon, argument = value.partition(":")
    names = shipped_configs()
    path = pathlib.Path(config)
    try:
        if not config or path.is_file():
            return value
        is_directory = path.is_dir()
    except (OSError, ValueError):
        is_directory = False
    if config in names:
        return f"{names[config]}{colon}{argument}"
    if is_directory:
        raise InputError(
            f"config {config} is a directory: expected a config file, or one of {', '.join(names)};"
            f" checkpoints are compared by svdjax compare BASE POST, or --config=pair:base={config}"
            ",post=DIR"
        )
    if path.stem in names:
        hint = f"; --config={path.stem} is the one that ships, from anywhere"
    else:
        hint = did_you_mean(path.stem, names) or f"; these ship: {', '.join(names)}"
    raise InputError(f"config file {config} does not exist{hint}")


def _takes_words(leaf: str) -> bool:
    """Whether a leaf is a tuple of words, which may be given without brackets and quotes."""
    from svdjax.options import OPTIONS

    default, _ = OPTIONS.get(leaf, (None, ""))
    return isinstance(default, tuple) and all(isinstance(word, str) for word in default)


def describe_leaves() -> str:
    """Help on the leaves of a config."""
    from svdjax.options import OPTIONS

    lines = ["\nconfig leaves, set with --config.LEAF=VALUE:"]
    for leaf, (default, text) in OPTIONS.items():
        if isinstance(default, tuple):
            default = ",".join(map(str, default))
        lines.append(f"  {leaf}:")
        lines += [f"    {line}" for line in textwrap.wrap(f"{text} (default: {default})", 92)]
    return "\n".join(lines)


def explain(error: BaseException, config: str, argv: Sequence[str]) -> str:
    """One sentence for an error of reading a config file or of setting its leaves."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    root = chain[-1]
    # ml_collections wraps a config's errors into tracebacks; the innermost is the original.
    for link in reversed(chain):
        if isinstance(link, InputError):
            return str(link)
    leaf = _missing_leaf(root)
    if leaf:
        from svdjax.options import OPTIONS

        # ml_collections names the part of a leaf that it does not find.
        given = (re.match(r"--?config\.([\w.]+)", arg) for arg in argv)
        paths = [match[1] for match in given if match]
        leaf = next((path for path in paths if leaf in path.split(".")), leaf)
        near = near_leaves(leaf, OPTIONS)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(OPTIONS)}"
        return f"config {config} has no leaf {leaf!r}; {hint}"
    return f"config {config}: {type(root).__name__}: {root}"


def near_leaves(leaf: str, known: Iterable[str]) -> list[str]:
    """Known leaves that are nearest to one: in its section, else by name in any."""
    known = list(known)
    section, _, name = leaf.rpartition(".")
    inside = {each.rpartition(".")[2]: each for each in known if each.rpartition(".")[0] == section}
    anywhere = {each.rpartition(".")[2]: each for each in known}
    # In a section that is known the name counts, not the section's letters.
    first = (inside, name) if inside else ({each: each for each in known}, leaf)
    for leaves, word in (first, (anywhere, name)):
        if near := difflib.get_close_matches(word, leaves, n=1):
            return [leaves[near[0]]]
    return []


def _missing_leaf(error: BaseException) -> str:
    """Leaf that a config lacks according to ml_collections, empty for other errors."""
    message: object = error
    while isinstance(message, KeyError | AttributeError) and message.args:
        message = message.args[0]
    name = str(message).split("\n")[0].strip("'\"")
    return name if isinstance(error, KeyError | AttributeError) and name.isidentifier() else ""
