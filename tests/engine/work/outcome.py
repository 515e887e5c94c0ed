"""What several processes leave and say."""

from __future__ import annotations

import json
import pathlib
import subprocess
import time

import numpy as np

from tests.sweep import harness


def journaled(workdir: pathlib.Path) -> set[pathlib.Path]:
    """The files of the groups in the journal."""
    return set((workdir / ".journal" / "pair").glob("*.npz"))


def when_computing(
    workdir: pathlib.Path, processes: list[subprocess.Popen[str]], before: set[pathlib.Path]
) -> None:
    """Waits until something is new in the journal."""
    while not journaled(workdir) - before:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.001)


def one_line(done: harness.Done) -> str:
    """What a process says beside its progress, which is one line."""
    quiet = ("computed ", "continuing: ", "waiting for the groups")
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
