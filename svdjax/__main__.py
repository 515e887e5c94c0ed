"""The command ``svdjax``: what post-training does to a language model's weights.

    svdjax compare BASE POST          two checkpoints, one report: singular values and vectors
    svdjax sweep --config=NAME        many pairs and all stages, from a config
    svdjax trajectory STEPS           a training run, step by step
    svdjax construct --base=DIR ...   write an edited checkpoint (the paper's eqs. 9 to 16, LoRA)
    svdjax evaluate --model=DIR ...   put a benchmark's questions to a model
    svdjax probe --models=DIR,DIR ... attention entropy and CKA on prompts
    svdjax fingerprint --reference=DIR --suspect=DIR --out=FILE
                                      do two models share an origin?
    svdjax harness ...                lm-evaluation-harness on svdjax's decoder
    svdjax completion bash            shell completion (bash, zsh or fish)

Start here; it needs no network, and takes some minutes:

    pip install "svdjax[eval]"
    svdjax sweep --config=reference:quick

A checkpoint is a Hugging Face directory with safetensors, or a hub id org/name[@revision]. Every
command explains itself with --help, tells what it would do with --dry_run, goes on where it was
interrupted when it is given again, and does nothing when it is done. `python -m svdjax.sweep`
is `svdjax sweep`, and so on. Exit status: 0 done, 2 the input cannot be used (one line on stderr
says why), 3 workers are lost, 130 or 143 stopped on request, 1 a fault of svdjax.
"""

from __future__ import annotations

import pathlib
import runpy
import sys
from typing import NoReturn

from svdjax import __version__, cli, streams
from svdjax.errors import InputError, did_you_mean

COMMANDS = {
    "compare": "svdjax.sweep.compare_command",
    "sweep": "svdjax.sweep",
    "trajectory": "svdjax.sweep.trajectory_command",
    "construct": "svdjax.construct",
    "evaluate": "svdjax.evaluate",
    "probe": "svdjax.probe",
    "fingerprint": "svdjax.fingerprint",
    "harness": "svdjax.harness",
    "completion": "svdjax.completion",
}
"""Modules that are the commands when they are run."""


def main() -> NoReturn:
    """Runs the command that the first argument names, and ends the process with its status."""
    streams.configure_streams()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        cli.tell((__doc__ or "").strip())
    if name in ("--version", "-V", "version"):
        cli.tell(f"svdjax {__version__}")
    if name not in COMMANDS:
        cli.leave(f"svdjax: {_unknown(name, arguments)}", 2)
    cli.set_program(f"svdjax {name}")
    sys.argv = [sys.argv[0], *arguments]
    runpy.run_module(COMMANDS[name], run_name="__main__", alter_sys=True)
    raise SystemExit(0)


def _unknown(name: str, arguments: list[str]) -> str:
    if pathlib.Path(name).is_dir() or "/" in name:
        post = arguments[0] if arguments else "POST"
        return f"{name!r} is no command; checkpoints are compared by svdjax compare {name} {post}"
    hint = did_you_mean(name, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
    return str(InputError(f"there is no command {name!r}{hint}"))


if __name__ == "__main__":
    main()
