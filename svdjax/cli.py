"""Command line of every command: flags, the call, and the exit status.

=========  ==============================================================
status     meaning
=========  ==============================================================
0          done; also for ``--help``
1          a fault of svdjax: a traceback follows
2          the input or the environment cannot be used: one line on stderr says why
3          workers were lost, or some units with them; the same command goes on
130, 143   stopped on request (SIGINT, SIGTERM); the same command goes on
=========  ==============================================================
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import pathlib
import re
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags

from svdjax import streams
from svdjax.engine.memory import check_memory, is_memory_fault
from svdjax.errors import InputError, Interrupted, WorkersLost, printable

# A flag that is defined here for a command is one of the command's.
flags.disclaim_key_flags()


def define_workers(devices: str) -> flags.FlagHolder[str]:
    """Defines ``--workers`` of a command that can spread its work; `devices` is its other name."""
    return flags.DEFINE_enum(
        "workers",
        "here",
        ["here", "ray"],
        "Who computes: this process over all its devices, or workers of a Ray cluster, with "
        f"{devices} devices each, 1 where it is 0.",
    )


def run(main: Callable[[], str | None]) -> NoReturn:
    """Parses the flags, calls `main` and ends the process with the status above.

    Args:
        main: Does the work; returns the short summary for stdout.
    """
    streams.configure_streams()
    command = f"python -m svdjax.{_command()}"
    try:
        app.run(lambda _: _call(main), flags_parser=_parse)
    except InputError as error:
        _leave(f"{command}: {error}", 2)
    except (Interrupted, WorkersLost) as stop:
        _leave(f"{command}: {stop}", stop.status)
    except KeyboardInterrupt:
        _leave(f"{command}: interrupted; the same command goes on from here", 128 + signal.SIGINT)
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_memory_fault(error):
            raise
        why = printable(" ".join(str(error).split()), 300) or type(error).__name__
        _leave(f"{command}: out of memory ({why}); raise the limit, or ask for less at a time", 2)
    raise SystemExit(0)


def _command() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.parent.rpartition(".")[2] if spec else "command"


def _call(main: Callable[[], str | None]) -> None:
    check_memory()
    summary = main()
    if summary:
        with _written_to_stdout():
            print(summary)


@contextlib.contextmanager
def _written_to_stdout() -> Iterator[None]:
    """Flushes stdout; a reader who has left is no fault (`streams`)."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        raise InputError(f"done, but stdout cannot be written to: {error.strerror}") from error


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags; ``--help`` ends with status 0, anything wrong is an `InputError`."""
    if any(re.fullmatch(r"--?(help|helpshort|h|\?)(=.*)?", arg) for arg in argv[1:]):
        with _written_to_stdout():
            app.usage(shorthelp=True, writeto_stdout=True)
            if "config" in flags.FLAGS:
                print(_leaves())
        raise SystemExit(0)
    app.define_help_flags()
    config = _config_file(argv)
    if config and not _is_file(config):
        raise InputError(f"config file {config} does not exist; configs/ holds the ones that ship")
    try:
        rest = flags.FLAGS(list(argv), known_only=False)
        for name in flags.FLAGS:
            # A config file that could not be read raises at the first access.
            getattr(flags.FLAGS[name].value, "name", None)
    except SystemExit as stop:
        # absl's other help flags end with status 1 after doing what was asked.
        raise SystemExit(0 if stop.code in (0, 1) else stop.code) from None
    except Exception as error:
        raise InputError(_explain(error, config, argv)) from error
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}: everything is given by --flag=value")
    return rest


def _is_file(path: str) -> bool:
    try:
        return pathlib.Path(path).is_file()
    except (OSError, ValueError):
        return False


def _leaves() -> str:
    """Help on the leaves of a config."""
    from svdjax.options import OPTIONS

    lines = ["\nconfig leaves, set with --config.LEAF=VALUE:"]
    for leaf, (default, text) in OPTIONS.items():
        lines.append(f"  {leaf}:")
        lines += [f"    {line}" for line in textwrap.wrap(f"{text} (default: {default})", 92)]
    return "\n".join(lines)


def _config_file(argv: Sequence[str]) -> str:
    """Path in ``--config=path[:argument]``, empty where there is none."""
    for arg, following in itertools.zip_longest(argv[1:], argv[2:], fillvalue=""):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-config"):
            return (value if equals else following).partition(":")[0]
    return ""


def _explain(error: BaseException, config: str, argv: Sequence[str]) -> str:
    """One sentence for an error of parsing the flags or reading the config file."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    root = chain[-1]
    # ml_collections wraps a config's errors into tracebacks; the innermost is the original.
    for link in reversed(chain):
        if isinstance(link, InputError):
            return str(link)
    if isinstance(error, flags.Error) and "whilst parsing config" not in str(error):
        missing = re.findall(r"flag --(\w+)=None: Flag --\w+ must have a value", str(error))
        if missing:
            names = f"--{', --'.join(missing)}"
            subject = f"flag {names} is" if len(missing) == 1 else f"flags {names} are"
            return f"{subject} required; --help explains every flag"
        return f"{error}; --help explains every flag"
    leaf = _missing_leaf(root)
    if leaf:
        from svdjax.options import OPTIONS

        # ml_collections names the part of a leaf that it does not find.
        given = (re.match(r"--?config\.([\w.]+)", arg) for arg in argv)
        paths = [match[1] for match in given if match]
        leaf = next((path for path in paths if leaf in path.split(".")), leaf)
        near = _near_leaves(leaf, OPTIONS)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(OPTIONS)}"
        return f"config {config} has no leaf {leaf!r}; {hint}"
    return f"config {config}: {type(root).__name__}: {root}"


def _near_leaves(leaf: str, known: Iterable[str]) -> list[str]:
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


def _leave(line: str, status: int) -> NoReturn:
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(status) from None
