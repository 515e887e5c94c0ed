r"""Compares checkpoints pair by pair: the main job, one command, resumable.

For every pair of a config, every linear layer of the base is compared with the same layer of the
post-trained model: singular value scaling (SVSM, alpha), similarity of the singular vectors, NF
beside the level of unrelated matrices, fits of eq. 8. The workdir then holds, for each pair,
spectra.npz, summary.json, tables, figures and a self-contained report.html, with an index. More
stages make the paper's constructed models, look inside every model, and put benchmarks to them.

    The reference family that ships with svdjax, no network needed:
      python -m svdjax.sweep --config=configs/reference.py:quick
      python -m svdjax.sweep --config=configs/reference.py

    Any two checkpoints, directories or hub ids (org/name[@revision]):
      python -m svdjax.sweep --config=configs/pair.py:base=DIR,post=DIR --workdir=runs/mine

    What would it cost? Shapes, memory, time; nothing is written:
      python -m svdjax.sweep --config=configs/qwen2_5_math_7b.py --dry_run

    One leaf of the config set by hand (they are explained below):
      python -m svdjax.sweep --config=configs/reference.py --config.factorisation=svd_f32

A sweep that was killed goes on when the same command is given again, and a finished one does
nothing. SIGTERM and Ctrl-C end it after the group of layers in flight. A workdir that another
config or other input files made is refused. Exit status: 0 done, 2 the input cannot be used (one
line on stderr says why), 3 another process of the sweep died, 130 or 143 stopped on request, 1 a
fault of svdjax.

    Several processes share the factorisations, with a workdir that all of them see:
      srun python -m svdjax.sweep --config=configs/pair.py:base=DIR,post=DIR --workdir=DIR
    or, without SLURM or Open MPI, the same command for K = 0 and 1, on one machine or two:
      python -m svdjax.sweep --config=... --workdir=DIR \
          --hosts_coordinator=HOST:PORT --hosts_count=2 --hosts_index=K

HOST is where process 0 runs, PORT a free one there. When a process dies, all others end with status
3 within half a minute; the same commands, of fewer or more processes too, go on from there.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from svdjax import cli
from svdjax.engine.hosts.request import PATIENCE, requested
from svdjax.engine.process import open_jax, prepare_process
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError

if TYPE_CHECKING:
    from svdjax.sweep.config import SweepConfig

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file, with its argument after a colon: configs/pair.py:base=D,post=D."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory for the results; default runs/<name of the config>."
)
_DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Print shapes, memory and predicted time, write nothing."
)
_COORDINATOR = flags.DEFINE_string(
    "hosts_coordinator",
    None,
    "HOST:PORT where process 0 of several is reached; SLURM and Open MPI before 5 tell it.",
)
_COUNT = flags.DEFINE_integer(
    "hosts_count", None, "How many processes there are; 1: alone, whatever the launcher says."
)
_INDEX = flags.DEFINE_integer("hosts_index", None, "Which of them this one is, from 0.")
_PATIENCE = flags.DEFINE_float(
    "hosts_patience", PATIENCE, "Seconds that processes wait for each other at the start."
)


def main() -> str:
    """Runs the sweep that the flags ask for; returns the summary for stdout."""
    if _DRY_RUN.value:
        config = _prepared()
        open_jax()
        from svdjax.sweep.dry_run import dry_run

        return dry_run(config)
    with StopRequest() as stop:
        config = _prepared()
        hosts = requested(_COORDINATOR.value, _COUNT.value, _INDEX.value, _PATIENCE.value)
        # jax is loaded from here on, after the faults of flags and config are reported. Where
        # processes share a machine, each is given its devices later.
        open_jax(devices=hosts is None or not hosts.gpus)
        from svdjax.sweep import pages
        from svdjax.sweep.run import run_sweep

        workdir = _WORKDIR.value
        if workdir is None:
            workdir = pathlib.Path("runs") / config.name
        elif not workdir:
            raise InputError("--workdir is empty: name a directory, or leave it out")
        return run_sweep(config, workdir, pages, stop=stop, hosts=hosts).summary()


def _prepared() -> SweepConfig:
    """Configures the process and reads the config."""
    prepare_process()
    from svdjax.sweep.config import read_config

    return read_config(_CONFIG.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
