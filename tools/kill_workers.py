"""Kills workers of sweeps on Ray, and the sweeps themselves, and looks whether anything is lost.

    python tools/kill_workers.py --kills=40 --drivers=10 --seed=0

Sweeps of all stages over the reference family, each against one process with as many devices: a
worker or the driver is killed (SIGKILL) at random moments; the same command goes on where the
driver was killed, or units were given up. Prints a line for each sweep; exit status 1 if a result
differs, a journal lost a file, or more was done again than was in flight.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tests.engine.work.outcome import EVERY_STAGE, processes, same_files
from tests.sweep import harness

_DONE = re.compile(r"(computed|drew|constructed|probed) \d+/\d+ (.*?) \(")


class Sweep:
    """A sweep by workers, however often it is started."""

    def __init__(self, arguments: Sequence[str], workdir: pathlib.Path):
        self.command = [*harness.command(*arguments), f"--workdir={workdir}", "--workers=ray"]
        self.workdir, self.kills, self.drivers, self.starts = workdir, 0, 0, 0
        self.done: list[str] = []
        self.faults: list[str] = []

    def run(self, chance: random.Random, kills: int, drivers: int) -> None:
        """Runs it to its end, with some kills on the way."""
        status = None
        while status != 0:
            self.starts += 1
            process = subprocess.Popen(
                self.command,
                cwd=harness.ROOT,
                env=harness.environment(),
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
            reader = threading.Thread(target=self._read, args=(process,))
            reader.start()
            while process.poll() is None and (self.kills < kills or self.drivers < drivers):
                time.sleep(chance.uniform(1, 12))
                if self.drivers < drivers and chance.random() < 0.25:
                    before = self._journaled()
                    process.kill()
                    process.wait()
                    self.drivers += 1
                    if lost := before - self._journaled():
                        self.faults.append(f"lost {sorted(lost)[:3]}")
                elif self.kills < kills and (workers := processes(process.pid, "ray::Worker")):
                    chance.choice(workers).kill()
                    self.kills += 1
            status = process.wait()
            reader.join()
            if status not in (0, 3, -9):
                self.faults.append(f"ended with status {status}")
                return

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            print("   ", line, end="", file=sys.stderr, flush=True)
            if found := _DONE.match(line):
                self.done.append(f"{found[1]} {found[2]}")

    def _journaled(self) -> set[str]:
        folders = (path for path in self.workdir.glob(".*") if path.is_dir())
        return {
            str(path) for folder in folders for path in folder.rglob("*") if path.suffix != ".tmp"
        }


def main() -> int:
    """Kills, prints, and returns the status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--drivers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sweeps", type=int, default=2)
    given = parser.parse_args()
    os.environ.setdefault("SVDJAX_TEST_CACHE", str(pathlib.Path.home() / ".cache"))
    chance, faults = random.Random(given.seed), 0
    with tempfile.TemporaryDirectory(prefix="svdjax-kills-") as folder:
        alone = pathlib.Path(folder, "alone")
        arguments = (*EVERY_STAGE, f"--workdir={alone}")
        done = harness.finish(harness.start(harness.environment(), *arguments), 3600)
        if done.status:
            print(done.err, file=sys.stderr)
            return 1
        expected = len([line for line in done.err.splitlines() if _DONE.match(line)])
        for number in range(given.sweeps):
            began = time.monotonic()
            sweep = Sweep(EVERY_STAGE, pathlib.Path(folder, f"sweep{number}"))
            sweep.run(chance, given.kills // given.sweeps, given.drivers // given.sweeps)
            again = len(sweep.done) - expected
            if not sweep.faults:
                try:
                    same_files(sweep.workdir, alone)
                except AssertionError as error:
                    sweep.faults.append(f"differs: {str(error)[:300]}")
            # Two workers, two units each; what was kept by a driver that was killed just then.
            if again > sweep.drivers:
                sweep.faults.append(f"{again} units were told as done twice")
            faults += len(sweep.faults)
            print(
                f"sweep {number}: {sweep.kills} workers and {sweep.drivers} drivers killed, "
                f"{sweep.starts} starts, {expected} units and {again} told again, "
                f"{len(sweep.faults)} faults, {time.monotonic() - began:.0f} s",
                *sweep.faults,
                sep="\n  ",
                flush=True,
            )
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
