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
import itertools
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from absl import app, flags

from svdjax import config_files, streams
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


def define_common() -> flags.FlagHolder[bool]:
    """Defines what every command has; returns ``--dry_run``, the rest is seen to by `run`."""
    flags.DEFINE_bool("quiet", False, "Write nothing to stderr but errors.")
    flags.DEFINE_enum(
        "progress",
        None,
        ["bar", "lines", "json"],
        "How to tell of progress on stderr: a bar alone, a line for every step, or a JSON object a "
        "line. Default: lines, and a bar below them where stderr is a terminal.",
    )
    flags.DEFINE_list(
        "follow_links",
        [],
        "Directories that files of checkpoints may be links into, such as a shared store; "
        "links that lead elsewhere are refused.",
    )
    return flags.DEFINE_bool(
        "dry_run", False, "Print what would be read, computed and written; write nothing."
    )


def set_program(name: str) -> None:
    """Makes errors begin with a name that is not ``python -m`` and the module's."""
    global _program
    _program = name


def program(default: str = "") -> str:
    """The command that runs, as the user has called it; `default` where it was by ``python -m``."""
    if _program or default:
        return _program or default
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m svdjax.{spec.parent.rpartition('.')[2] if spec else 'command'}"


_program = ""


def run(
    main: Callable[..., str | None],
    *,
    positional: Sequence[str] = (),
    instead: str = "everything is given by --flag=value",
    config: str = "",
) -> NoReturn:
    """Parses the flags, calls `main` and ends the process with the status above.

    Args:
        main: Does the work, given the positional arguments; returns the short summary for stdout.
        positional: Names of the positional arguments, all of them required.
        instead: How to give what was given as a positional argument where none is taken.
        config: Name of the config that ``--config.LEAF`` sets leaves of, where ``--config`` itself
            is not the user's.
    """
    streams.configure_streams()
    command = program()

    def parse(argv: Sequence[str]) -> list[str]:
        if _wants_help(argv):
            _tell_help()
        # Told before the flags that are missing for it.
        if not positional and (stray := _certain_arguments(argv)):
            raise InputError(_wrong_count(stray, positional, instead))
        rest = _parse(argv, config)
        if len(rest) - 1 != len(positional):
            raise InputError(_wrong_count(rest[1:], positional, instead))
        return rest

    try:
        app.run(lambda argv: _call(main, argv[1:]), flags_parser=parse)
    except InputError as error:
        leave(f"{command}: {error}", 2)
    except (Interrupted, WorkersLost) as stop:
        leave(f"{command}: {stop}", stop.status)
    except KeyboardInterrupt:
        leave(f"{command}: interrupted; the same command goes on from here", 128 + signal.SIGINT)
    except (MemoryError, OSError, RuntimeError) as error:
        if not is_memory_fault(error):
            raise
        why = printable(" ".join(str(error).split()), 300) or type(error).__name__
        leave(f"{command}: out of memory ({why}); raise the limit, or ask for less at a time", 2)
    raise SystemExit(0)


def _certain_arguments(argv: Sequence[str]) -> list[str]:
    """Arguments that are neither a flag nor, perhaps, the value of the flag before it."""
    return [
        argument
        for before, argument in itertools.pairwise(argv)
        if not argument.startswith("-") and (not before.startswith("-") or "=" in before)
    ]


def _wrong_count(given: Sequence[str], positional: Sequence[str], instead: str) -> str:
    if not positional:
        return f"unexpected argument {given[0]!r}: {instead}"
    found = f"found {', '.join(map(repr, given))}" if given else "found none"
    return f"expected {' '.join(positional)}, {found}; --help explains them and every flag"


def _call(main: Callable[..., str | None], arguments: Sequence[str]) -> None:
    check_memory()
    known = flags.FLAGS
    if "progress" in known:
        from svdjax.engine import progress

        progress.set_mode("quiet" if known.quiet else known.progress or "auto")
    if "follow_links" in known and known.follow_links:
        from svdjax.checkpoint.files import follow_links

        follow_links(known.follow_links)
    summary = main(*arguments)
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


def _wants_help(argv: Sequence[str]) -> bool:
    return any(re.fullmatch(r"--?(help|helpshort|h|\?)(=.*)?", arg) for arg in argv[1:])


def _tell_help() -> NoReturn:
    with _written_to_stdout():
        app.usage(shorthelp=True, writeto_stdout=True)
        if "config" in flags.FLAGS:
            print(config_files.describe_leaves())
    raise SystemExit(0)


def _parse(argv: Sequence[str], config: str) -> list[str]:
    """Parses the flags; anything wrong is an `InputError`."""
    app.define_help_flags()
    if "config" in flags.FLAGS:
        # ml_collections looks for leaves on the command line itself.
        argv = [argv[0], *([f"--config={config}"] if config else []), *argv[1:]]
        sys.argv, config = config_files.resolve_arguments(argv)
        argv = sys.argv
    flags.FLAGS.set_gnu_getopt()  # flags and other arguments in any order
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
    return rest


def _explain(error: BaseException, config: str, argv: Sequence[str]) -> str:
    """One sentence for an error of parsing the flags or reading the config file."""
    if not isinstance(error, flags.Error) or "whilst parsing config" in str(error):
        return config_files.explain(error, config, argv)
    missing = re.findall(r"flag --(\w+)=None: Flag --\w+ must have a value", str(error))
    if missing:
        names = f"--{', --'.join(missing)}"
        subject = f"flag {names} is" if len(missing) == 1 else f"flags {names} are"
        return f"{subject} required; --help explains every flag"
    return f"{error}; --help explains every flag"


def tell(text: str) -> NoReturn:
    """Ends the process with a text on stdout and status 0."""
    with _written_to_stdout():
        print(text, end="\n" if text else "")
    raise SystemExit(0)


def leave(line: str, status: int) -> NoReturn:
    """Ends the process with a line on stderr and a status."""
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(status) from None
