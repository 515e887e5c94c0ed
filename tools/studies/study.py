"""What every study is: settings, a measurement made of kept pieces, a JSON, a command."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import json
import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from absl import flags, logging
from tqdm import tqdm

from svdjax import cli
from svdjax.atomic import write_json
from svdjax.engine.process import open_jax, prepare_process
from svdjax.errors import InputError
from tools.benchmark_shared import machine

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "studies"

Settings = TypeVar("Settings")
Item = TypeVar("Item")


class Runs:
    """The pieces of a study, each kept as JSON: an interrupted study goes on with the next one.

    Attributes:
        folder: Where they are kept; a piece may put files of its own there too.
        processes: How many are done at once, each on a core of its own: the fastest way to train
            several small models.
    """

    def __init__(self, folder: pathlib.Path, processes: int = 1):
        self.folder, self.processes = folder, processes

    def spread(self, compute: Callable[[Item], Any], items: Mapping[str, Item]) -> dict[str, Any]:
        """What `compute` makes of each item, by name; what is kept is not computed again.

        Args:
            compute: A function of a module (another process finds it by name); returns JSON data.
            items: What it is given, by the name under which its result is kept.
        """
        done = {name: self._kept(name) for name in items}
        left = {name: items[name] for name, value in done.items() if value is None}
        with tqdm(total=len(items), initial=len(items) - len(left), unit="piece") as bar:
            for name, value in self._computed(compute, left):
                self._keep(name, value)
                done[name] = value
                bar.update()
        return done

    def _computed(self, compute: Callable[[Item], Any], items: Mapping[str, Item]) -> Any:
        if self.processes == 1:
            yield from ((name, compute(item)) for name, item in items.items())
            return
        with concurrent.futures.ProcessPoolExecutor(
            self.processes,
            multiprocessing.get_context("spawn"),
            initializer=_take_core,
            initargs=(multiprocessing.get_context("spawn").Value("i", 0),),
        ) as pool:
            futures = {pool.submit(compute, item): name for name, item in items.items()}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()

    def _path(self, name: str) -> pathlib.Path:
        return self.folder / "pieces" / f"{name}.json"

    def _kept(self, name: str) -> Any:
        path = self._path(name)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _keep(self, name: str, value: Any) -> None:
        self._path(name).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path(name), value)


def _take_core(taken: Any) -> None:
    """Gives each process of a pool a core of its own, before it loads jax."""
    with taken.get_lock():
        number, taken.value = taken.value, taken.value + 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[number % len(cores)]})


@dataclasses.dataclass(frozen=True)
class Study(Generic[Settings]):
    """A study.

    Attributes:
        name: That of its module, its JSON and its page.
        full: Settings whose results are committed.
        quick: Small ones, which a test measures with.
        measure: Gives the figures, as JSON data.
        draw: Writes the page's plots, from the figures into a folder.
    """

    name: str
    full: Settings
    quick: Settings
    measure: Callable[[Settings, Runs], dict[str, Any]]
    draw: Callable[[dict[str, Any], pathlib.Path], None] | None = None

    def perform(
        self, out: pathlib.Path, workdir: pathlib.Path, *, quick: bool = False, processes: int = 1
    ) -> dict[str, Any]:
        """Measures and writes `out`/NAME.json and the plots.

        Raises:
            InputError: `workdir` holds pieces of other settings.
        """
        settings = self.quick if quick else self.full
        told = json.loads(json.dumps(dataclasses.asdict(settings)))  # type: ignore[call-overload]
        _claim(workdir, told)
        began = time.perf_counter()
        figures = self.measure(settings, Runs(workdir, processes))
        record = {
            "study": self.name,
            "quick": quick,
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "processes": processes,
            "seconds": _told_seconds(workdir, time.perf_counter() - began),
            "settings": told,
            "figures": figures,
        }
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{self.name}.json", record)
        if self.draw:
            self.draw(figures, out)
        return record

    def run(self) -> None:
        """Runs the study as a command."""
        quick = flags.DEFINE_bool("quick", False, "Measure in small, as the tests do.")
        out = flags.DEFINE_string("out", None, "Folder of the JSON and the plots (docs/studies).")
        workdir = flags.DEFINE_string("workdir", None, "Folder of what is kept on the way.")
        processes = flags.DEFINE_integer("processes", 2, "Pieces at once, each on a core.", 1)

        def main() -> str:
            logging.set_verbosity(logging.WARNING)
            prepare_process()
            open_jax()
            kind = "quick" if quick.value else "full"
            work = pathlib.Path(workdir.value or f"runs/studies/{self.name}-{kind}")
            default = work if quick.value else PAGES
            folder = pathlib.Path(out.value) if out.value else default
            record = self.perform(
                folder, work, quick=quick.value, processes=1 if quick.value else processes.value
            )
            return f"{folder / self.name}.json: {record['seconds']:.0f} s"

        cli.run(main)


def _claim(workdir: pathlib.Path, settings: dict[str, Any]) -> None:
    record = workdir / "settings.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) != settings:
        raise InputError(
            f"{record}: begun with other settings; use another --workdir, or remove this one"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(record, settings)


def _told_seconds(workdir: pathlib.Path, seconds: float) -> float:
    """Seconds of this run and of those it goes on from."""
    record = workdir / "seconds.json"
    before = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else 0.0
    write_json(record, before + seconds)
    return round(before + seconds, 1)
