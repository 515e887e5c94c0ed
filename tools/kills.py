"""Kills commands with SIGKILL and looks whether the same command ends as if nothing had been.

    .venv/bin/python tools/kills.py --kills=100 --seed=0

Half of the kills are at random moments, half at system calls that concern what is written (needs
strace). One line for each command, and a line for each fault; exit status 1 if there was any.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from tests.support.kills import COMMANDS, Tally, Victim, cannot_trace
from tests.sweep import harness


def main() -> int:
    """Kills, prints, and returns the status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    given = parser.parse_args()
    if why := cannot_trace():
        print(f"only at random moments: {why}", file=sys.stderr)
    names = given.commands.split(",")
    faults = 0
    with tempfile.TemporaryDirectory(prefix="svdjax-kills-") as folder:
        os.environ.setdefault("SVDJAX_TEST_CACHE", folder)
        for name in names:
            chance, tally, began = random.Random(f"{given.seed} {name}"), Tally(), time.monotonic()
            victim = Victim(name, pathlib.Path(folder, name), harness.environment())
            while tally.kills < -(-given.kills // len(names)):
                victim.round(tally, chance, trace=not why)
            faults += len(tally.faults)
            print(
                f"{name}: {tally.kills} kills ({tally.at_calls} meant for system calls), "
                f"{tally.survived} too late, {tally.rounds} runs to the end, "
                f"{len(tally.faults)} faults, {time.monotonic() - began:.0f} s",
                flush=True,
            )
            for fault in tally.faults:
                print(f"  {fault}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
