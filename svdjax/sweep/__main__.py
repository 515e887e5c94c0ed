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
line on stderr says why), 3 workers are lost, or some of what they were to do is, 130 or 143 stopped
on request, 1 a fault of svdjax.

One process uses all GPUs of its machine. More machines are workers of a Ray cluster:
      pip install "svdjax[ray]"
      RAY_ADDRESS=HOST:PORT python -m svdjax.sweep --config=... --workers=ray
Without RAY_ADDRESS a cluster of this machine alone is started. Workers read the checkpoints
themselves, under the same paths or hub ids; this process alone writes to the workdir.
"""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING

from absl import flags
from ml_collections import config_flags

from svdjax import cli
from svdjax.engine.process import open_jax, prepare_process, set_cpu_devices
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError
from svdjax.sweep.session import for_workers

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
_WORKERS = cli.define_workers("config.devices")


def main() -> str:
    """Runs the sweep that the flags ask for; returns the summary for stdout."""
    if _DRY_RUN.value:
        config = _prepared()
        open_jax()
        from svdjax.sweep.dry_run import dry_run

        return dry_run(config)
    with StopRequest() as stop:
        config = _prepared()
        remote = _WORKERS.value == "ray"
        if remote:
            # It plans for a worker's devices, and computes on none.
            set_cpu_devices(for_workers(config).settings.devices)
        # jax is loaded from here on, after the faults of flags and config are reported.
        open_jax(devices=not remote)
        from svdjax.sweep import pages
        from svdjax.sweep.run import run_sweep

        workdir = _WORKDIR.value
        if workdir is None:
            workdir = pathlib.Path("runs") / config.name
        elif not workdir:
            raise InputError("--workdir is empty: name a directory, or leave it out")
        return run_sweep(config, workdir, pages, stop=stop, workers=_WORKERS.value).summary()


def _prepared() -> SweepConfig:
    """Configures the process and reads the config."""
    prepare_process()
    from svdjax.sweep.config import read_config

    return read_config(_CONFIG.value)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    cli.run(main)
