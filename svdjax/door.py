"""What every command shares: flags in, one call, and the exit status.

=========  ==============================================================
status     meaning
=========  ==============================================================
0          done; also for ``--help``
1          a fault of svdjax: a traceback follows
2          the input cannot be used: one line on stderr says why
130, 143   stopped on request (SIGINT, SIGTERM); the same command goes on
=========  ==============================================================
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags

from svdjax.errors import InputError, Interrupted


def run(main: Callable[[], str | None]) -> NoReturn:
    """Parses the flags, calls `main` and ends the process with the status above.

    Args:
      main: does the work; the text it returns is the short summary for stdout.
    """
    command = f"python -m svdjax.{_command()}"
    try:
        app.run(lambda _: _call(main), flags_parser=_parse)
    except InputError as error:
        _leave(f"{command}: {error}", 2)
    except Interrupted as stop:
        _leave(f"{command}: {stop}", stop.status)
    except KeyboardInterrupt:
        _leave(f"{command}: interrupted; the same command goes on from here", 128 + signal.SIGINT)
    except BrokenPipeError:
        # The reader of our summary went away: nothing is wrong with the work.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    raise SystemExit(0)


def _command() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.rpartition(".")[2] if spec else "command"


def _call(main: Callable[[], str | None]) -> None:
    summary = main()
    if summary:
        print(summary, flush=True)


def _parse(argv: Sequence[str]) -> list[str]:
    """Parses the flags; ``--help`` ends with status 0, anything wrong is an `InputError`."""
    if any(
        arg.lstrip("-").partition("=")[0] in ("help", "helpshort", "h", "?") and arg.startswith("-")
        for arg in argv[1:]
    ):
        app.usage(shorthelp=True, writeto_stdout=True)
        raise SystemExit(0)
    app.define_help_flags()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rest = flags.FLAGS(list(argv), known_only=False)
    except InputError:
        raise
    except SystemExit as stop:
        # absl's other help flags end with status 1 after doing what was asked.
        raise SystemExit(0 if stop.code in (0, 1) else stop.code) from None
    except flags.Error as error:
        raise InputError(f"{error}; --help explains every flag") from error
    except (AttributeError, KeyError) as error:
        # ml_collections' way of saying that a config has no such leaf.
        message = error.args[0] if error.args else error
        raise InputError(f"config: {message}; --help lists the leaves") from error
    except FileNotFoundError as error:
        raise InputError(f"config file {error.filename or error} does not exist") from error
    except Exception as error:
        # Anything else comes out of the user's config file while it is read.
        raise InputError(f"config: {type(error).__name__}: {error}") from error
    if len(rest) > 1:
        raise InputError(f"unexpected argument {rest[1]!r}: everything is given by --flag=value")
    return rest


def _leave(line: str, status: int) -> NoReturn:
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(status) from None
