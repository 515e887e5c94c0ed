"""Commands that SIGKILL ends, at random moments and at chosen system calls, and are given again.

What they leave in the end must be what an undisturbed run leaves, and nothing beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from tests.support.commands import ROOT
from tests.sweep.harness import square_pair

INSTRUCT = ROOT / "svdjax" / "reference" / "instruct"
QUESTIONS = ROOT / "svdjax" / "reference" / "heldout.jsonl"
CALLS = (
    *("rename", "renameat", "renameat2", "fsync", "openat", "write", "pwrite64", "unlink"),
    *("unlinkat", "mkdir", "mkdirat", "rmdir", "ftruncate", "fallocate", "flock"),
)
COMMANDS = ("sweep", "construct", "evaluate", "fingerprint")
_VARYING = {"seconds", "started", "finished"}
# What was reused and when; which numbers it comes to is in the other files.
_RECORDS = {"sweep.json", "evaluation.json"}
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")


@dataclasses.dataclass
class Tally:
    """What was done to commands, and what came of it."""

    kills: int = 0
    at_calls: int = 0
    starts: int = 0
    rounds: int = 0
    survived: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)


class Victim:
    """A command that writes into a folder of its own.

    Args:
      command: one of `COMMANDS`.
      folder: for everything.
      env: of its processes; programs are kept there so that they need not be compiled.
    """

    def __init__(self, command: str, folder: pathlib.Path, env: Mapping[str, str]):
        self.command, self.folder, self.env = command, folder, dict(env)
        self.cache = folder / "cache"
        self.env["XDG_CACHE_HOME"] = str(self.cache)
        folder.mkdir(parents=True, exist_ok=True)
        if command != "evaluate":
            self.base, self.post = square_pair(folder)

    def arguments(self, place: pathlib.Path) -> list[str]:
        """The command line that writes into `place`."""
        flags = {
            "sweep": lambda: [
                f"--config=configs/pair.py:base={self.base},post={self.post}",
                *("--config.group_bytes=1", "--config.stages=('spectra',)"),
                *("--config.devices=1", f"--workdir={place / 'W'}"),
            ],
            "construct": lambda: [
                *(f"--base={self.base}", f"--post={self.post}", "--construction=eq9"),
                *("--group_bytes=1", "--devices=1", f"--out={place / 'out'}"),
            ],
            "evaluate": lambda: [
                *(f"--model={INSTRUCT}", "--benchmark=questions", f"--data={QUESTIONS}"),
                *("--limit=6", "--repeats=2", "--batch_size=4", "--devices=1"),
                *("--max_new_tokens=16", f"--out={place / 'out'}"),
            ],
            "fingerprint": lambda: [
                *(f"--reference={self.base}", f"--suspect={self.post}", "--devices=1"),
                f"--out={place / 'verdict.json'}",
            ],
        }[self.command]()
        return [sys.executable, "-m", f"svdjax.{self.command}", *flags]

    def start(self, place: pathlib.Path, *before: str) -> subprocess.Popen[str]:
        """Starts it, as the argument of another program if one is given."""
        place.mkdir(exist_ok=True)
        return subprocess.Popen(
            [*before, *self.arguments(place)],
            cwd=ROOT,
            env=self.env,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def finish(self, place: pathlib.Path) -> str:
        """Runs it to its end; what went wrong, empty if nothing did."""
        process = self.start(place)
        _, err = process.communicate(timeout=300)
        return "" if process.returncode == 0 else f"status {process.returncode}: {err[-600:]}"

    @functools.cached_property
    def calm(self) -> dict[str, object]:
        """What an undisturbed run leaves."""
        fault = self.finish(self.folder / "calm")
        assert not fault, fault
        return self.left(self.folder / "calm")

    @functools.cached_property
    def seconds(self) -> float:
        """How long an undisturbed run takes whose programs are compiled."""
        assert self.calm
        began = time.monotonic()
        assert not self.finish(self.folder / "timed")
        return time.monotonic() - began

    @functools.cached_property
    def calls(self) -> list[tuple[str, int]]:
        """System calls of a run that concern what it writes: name, and the how manieth."""
        log, place = self.folder / "calls", self.folder / "traced"
        names = ",".join(f"?{name}" for name in CALLS)
        trace = ("strace", "-f", "-y", "-qq", "-s", "256", "-e", f"trace={names}", "-o", str(log))
        process = self.start(place, *trace)
        assert process.communicate(timeout=300)[1] is not None
        assert process.returncode == 0
        counts: dict[tuple[str, str], int] = {}
        found = []
        for line in log.read_text(errors="replace").splitlines():
            if match := _LINE.match(line):
                task, name, rest = match.groups()
                counts[task, name] = number = counts.get((task, name), 0) + 1
                if str(place) in rest:
                    found.append((name, number))
        shutil.rmtree(place)
        return found

    def left(self, place: pathlib.Path) -> dict[str, object]:
        """Every file below, by name; contents but for times, and for the record of a run."""
        found: dict[str, object] = {}
        for path in sorted(place.rglob("*")):
            name = str(path.relative_to(place))
            if path.is_dir() or path.name in _RECORDS or path.suffix == ".html":
                found[name] = "there"
            elif path.suffix == ".json":
                content = json.loads(path.read_text(encoding="utf-8"))
                found[name] = {k: v for k, v in content.items() if k not in _VARYING}
            else:
                # A card, and nothing else, names the directory.
                found[name] = path.read_bytes().replace(str(place).encode(), b"PLACE")
        return found

    def kill_at(self, place: pathlib.Path, call: str, number: int) -> bool:
        """Starts it and kills it at the nth system call of a name; whether it came to that."""
        inject = f"inject={call}:signal=SIGKILL:when={number}"
        quiet = ("-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject)
        return self._is_killed(self.start(place, "strace", *quiet))

    def kill_after(self, place: pathlib.Path, seconds: float) -> bool:
        """Starts it and kills it so long afterwards; whether it came to that."""
        process = self.start(place)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds)
        process.kill()
        return self._is_killed(process)

    def _is_killed(self, process: subprocess.Popen[str]) -> bool:
        process.communicate(timeout=300)
        return process.returncode == -signal.SIGKILL

    def round(self, tally: Tally, chance: random.Random, *, trace: bool) -> None:
        """Ends it after one, two or three kills, every other at a system call if `trace`."""
        kills = []
        for turn in range(chance.choice((1, 2, 3))):
            if trace and (tally.kills + turn) % 2 == 0:
                kind = chance.choice(sorted({name for name, _ in self.calls}))
                number = chance.choice([n for name, n in self.calls if name == kind])
                kills.append(functools.partial(self.kill_at, call=kind, number=number))
                tally.at_calls += 1
            else:
                moment = chance.uniform(0, self.seconds)
                kills.append(functools.partial(self.kill_after, seconds=moment))
        self.end(tally, kills)

    def end(self, tally: Tally, kills: Sequence[Callable[[pathlib.Path], bool]]) -> None:
        """Kills it, one time after the other, runs it to its end, and looks at what is there.

        Args:
          tally: is added to.
          kills: given where it writes, start it and kill it, and say whether it came to that.
        """
        wanted = self.calm
        place = self.folder / f"round{tally.rounds}"
        tally.rounds += 1
        for kill in kills:
            tally.starts += 1
            killed = kill(place)
            tally.kills += killed
            tally.survived += not killed
        tally.starts += 1
        if fault := self.finish(place):
            tally.faults.append(f"{self.command}, {place.name}: {fault}")
            return
        found = self.left(place)
        for name in sorted(wanted.keys() | found.keys()):
            if name not in found or name not in wanted:
                what = "left behind" if name in found else "missing"
                tally.faults.append(f"{self.command}, {place.name}: {name} {what}")
            elif found[name] != wanted[name]:
                tally.faults.append(f"{self.command}, {place.name}: {name} differs")
        for path in self.cache.rglob(".svdjax-*"):
            if path.name != ".svdjax-checked":
                tally.faults.append(f"{self.command}, {place.name}: {path} left behind")
        shutil.rmtree(place)


@functools.cache
def cannot_trace() -> str:
    """Why system calls cannot be chosen here; empty where they can."""
    if shutil.which("strace") is None:
        return "needs strace"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-o", os.devnull, "-e", "inject=fsync:error=EINVAL", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"strace cannot trace here: {done.stderr.strip()[:200]}" * (done.returncode != 0)
