"""Context of a stage: what the sweep hands to it, and how it goes from pair to pair."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import jax

from svdjax.atomic import remove_leftovers
from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.hosts.hosts import Hosts
from svdjax.engine.inputs import PairJob
from svdjax.errors import InputError

if TYPE_CHECKING:
    from svdjax.sweep.config import Settings

Result = TypeVar("Result")


@dataclass(frozen=True)
class Context:
    """Everything the sweep hands to a stage.

    Attributes:
        workdir: Locked, clean.
        settings: How to compute.
        identity: Digests of the inputs by source, and versions; they key the journal.
        mesh: The devices.
        entry: This stage's entry in sweep.json, kept up to date.
        save: Writes sweep.json.
        check: Raises if a stop was requested, here or at another process.
        hosts: The processes of the sweep.
        compile_queue: Compiles what will be needed.
    """

    workdir: pathlib.Path
    settings: Settings
    identity: Mapping[str, Any]
    mesh: jax.sharding.Mesh
    entry: dict[str, Any]
    save: Callable[[], None]
    check: Callable[[str], None]
    hosts: Hosts
    compile_queue: CompileQueue

    @contextlib.contextmanager
    def journal(self, name: str) -> Iterator[pathlib.Path]:
        """A directory of the workdir for what is kept until the stage is done.

        It stays where the stage is interrupted: the next run goes on from it. Temporary files that
        a killed run left in it are removed.
        """
        directory = self.workdir / name
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers([directory])
        yield directory
        shutil.rmtree(directory, ignore_errors=True)

    def pair_by_pair(
        self,
        jobs: Iterable[PairJob],
        load: Callable[[pathlib.Path], Result],
        make: Callable[[PairJob], Result],
    ) -> dict[str, Result]:
        """Does what the stage does to every pair; what an earlier run finished is only read.

        Args:
            jobs: The pairs.
            load: Reads the results from a pair's directory; raises `InputError` where they are
                missing or damaged, and they are made again.
            make: Makes them, and leaves them in that directory.

        Returns:
            Results by pair, in the order of `jobs`.
        """
        before, start = self.entry.get("seconds", 0.0), time.perf_counter()
        self.entry["status"] = "running"
        entries = self.entry.setdefault("pairs", {})
        results: dict[str, Result] = {}
        for job in jobs:
            name = job.spec.name
            if entries.get(name, {}).get("status") == "done":
                with contextlib.suppress(InputError):
                    results[name] = load(self.workdir / name)
                    continue
            began = time.perf_counter()
            results[name] = make(job)
            entries[name] = {"status": "done", "seconds": time.perf_counter() - began}
            self.entry["seconds"] = before + time.perf_counter() - start
            self.save()
        self.entry.update(status="done", seconds=before + time.perf_counter() - start)
        return results
