"""What several processes leave and say."""

from __future__ import annotations

import contextlib
import json
import pathlib
from typing import Any

import numpy as np
import psutil

from tests.sweep import harness

EVERY_STAGE = (
    "--config=configs/reference.py:quick",
    "--config.stages=('spectra', 'nulls', 'constructions', 'probes', 'evaluation', 'temperature')",
    "--config.devices=1",
    "--config.variants=('replaced', 'restoration_V_SA')",
    "--config.text_limit=8",
    "--config.probes.limit=8",
    "--config.evaluation.limit=10",
    "--config.evaluation.batch_size=2",
    "--config.evaluation.max_new_tokens=60",
    "--config.temperature.factors=(1.4,)",
    "--config.temperature.most_layers=1",
)
"""Arguments of a sweep of all stages over the reference family: some minutes on two cores."""


def processes(parent: int, kind: str) -> list[psutil.Process]:
    """Processes of a kind, such as ``ray::Worker``, that a command has started."""
    found = []
    with contextlib.suppress(psutil.Error):  # the command has ended
        for process in psutil.Process(parent).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # this one has
                if process.cmdline() and kind in process.cmdline()[0]:
                    found.append(process)
    return found


def journaled(workdir: pathlib.Path) -> set[pathlib.Path]:
    """The files of the groups in the journal."""
    return set((workdir / ".journal" / "pair").glob("*.npz"))


def one_line(done: harness.Done) -> str:
    """What a process says beside its progress, which is one line."""
    quiet = ("stage ", "computed ", "continuing: ")
    (line,) = [line for line in done.err.splitlines() if not line.startswith(quiet)]
    return line


def same(found: pathlib.Path, wanted: pathlib.Path) -> None:
    """The same results to the last bit, and the same record but for devices and times."""
    arrays, others = harness.spectra(found), harness.spectra(wanted)
    assert set(arrays) == set(others)
    for key, value in others.items():
        np.testing.assert_array_equal(arrays[key], value, err_msg=key)
    one, other = ((w / "pair" / "summary.json").read_bytes() for w in (found, wanted))
    assert one == other
    records = [json.loads((w / "sweep.json").read_text()) for w in (found, wanted)]
    for record in records:
        assert record["status"] == "done"
        for changing in ("devices", "started", "finished", "stages"):
            del record[changing]
    assert records[0] == records[1]
    assert harness.leftovers(found) == []


def same_files(found: pathlib.Path, wanted: pathlib.Path) -> None:
    """The same files with the same content, but for records, times and pages."""
    files = {path.relative_to(wanted) for path in wanted.rglob("*") if path.is_file()}
    assert {path.relative_to(found) for path in found.rglob("*") if path.is_file()} == files
    for file in sorted(files):
        one, other = found / file, wanted / file
        if file.suffix == ".npz":
            with np.load(one) as arrays, np.load(other) as others:
                assert set(arrays) == set(others), file
                for key in others:
                    np.testing.assert_array_equal(arrays[key], others[key], err_msg=f"{file} {key}")
        elif file.suffix == ".jsonl":
            assert one.read_bytes() == other.read_bytes(), file
        elif file.suffix == ".json" and file.name != "sweep.json":
            assert _timeless(json.loads(one.read_text())) == _timeless(
                json.loads(other.read_text())
            )


def _timeless(value: Any) -> Any:
    """JSON without the seconds that something took."""
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if key != "seconds"}
    return [_timeless(each) for each in value] if isinstance(value, list) else value
