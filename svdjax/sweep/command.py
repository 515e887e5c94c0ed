"""What the commands that sweep have in common: flags, and the sweep of a config. Loads no jax."""

from __future__ import annotations

import pathlib
from typing import Any

from absl import flags
from ml_collections import config_flags

from svdjax import cli
from svdjax.engine.process import open_jax, prepare_process, set_cpu_devices
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError
from svdjax.fields import Flags
from svdjax.streaming import StreamOptions
from svdjax.sweep.config import read_config
from svdjax.sweep.session import for_workers

# The flags defined here are those of the command that asks for them.
flags.disclaim_key_flags()


class SweepFlags:
    """Flags of a command that sweeps.

    Args:
        help: Of ``--config``.
        place: Name of the flag for the directory of the results.
    """

    def __init__(self, help: str, place: str = "workdir"):
        self.config = config_flags.DEFINE_config_file("config", None, help)
        self._place_name = place
        self._place = flags.DEFINE_string(
            place, None, "Directory for the results; default runs/<name of the config>."
        )
        self._stream = Flags(StreamOptions)
        self._workers = cli.define_workers("config.devices")
        self._dry_run = cli.define_common()

    def run(self, config: Any) -> str:
        """Sweeps a `ConfigDict`, or tells what that would take; returns the summary for stdout."""
        for leaf, value in self._stream.values(StreamOptions).items():
            if flags.FLAGS[leaf].present:
                config[leaf] = value
        if self._dry_run.value:
            prepare_process()
            sweep = read_config(config)
            open_jax()
            from svdjax.sweep.dry_run import dry_run

            return dry_run(sweep)
        with StopRequest() as stop:
            prepare_process()
            sweep = read_config(config)
            remote = self._workers.value == "ray"
            if remote:
                # It plans for a worker's devices, and computes on none.
                set_cpu_devices(for_workers(sweep).settings.devices)
            # jax is loaded from here on, after the faults of flags and config are reported.
            open_jax(devices=not remote)
            from svdjax.sweep import pages
            from svdjax.sweep.run import run_sweep

            workdir = self._place.value
            if workdir is None:
                workdir = pathlib.Path("runs") / sweep.name
            elif not workdir:
                raise InputError(
                    f"--{self._place_name} is empty: name a directory, or leave it out"
                )
            outcome = run_sweep(
                sweep,
                workdir,
                pages,
                stop=stop,
                workers=self._workers.value,
                flag=f"--{self._place_name}",
            )
            return outcome.summary()
