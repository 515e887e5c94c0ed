"""The verdict on a common origin: one suspect, one reference or more, one file and a page."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from svdjax.atomic import remove_leftovers, write_json
from svdjax.engine.signals import StopRequest
from svdjax.engine.writing import writing_to
from svdjax.fingerprint import lineage
from svdjax.fingerprint.alignment import Check
from svdjax.fingerprint.compare import compare_pair
from svdjax.fingerprint.findings import sentences
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.pair import open_pair


@dataclass(frozen=True)
class FingerprintOutcome:
    """The verdict and the files that hold it.

    Attributes:
        file: The JSON file.
        page: The report; None where none was written.
        result: The content of the file.
    """

    file: pathlib.Path
    page: pathlib.Path | None
    result: Mapping[str, Any]

    def text(self) -> str:
        """A few lines for stdout, with the paths."""
        paths = (str(path) for path in (self.file, self.page) if path)
        return "\n".join([*sentences(self.result), *paths])


def run_fingerprint(
    job: FingerprintJob, *, page: bool = False, stop: StopRequest | None = None
) -> FingerprintOutcome:
    """Gives a verdict on a common origin and writes it to exactly ``job.out``.

    Args:
        job: The checkpoints and the file.
        page: Whether the report beside the file is written.
        stop: The caller's entered `StopRequest`; without one, the run enters its own.

    Raises:
        InputError: A checkpoint cannot be read, two cannot be compared, or the file not written.
        Interrupted: SIGTERM or SIGINT; nothing is written then.
    """
    if stop is None:
        with StopRequest(resumes=False) as own:
            return run_fingerprint(job, page=page, stop=own)
    file = job.file
    remove_leftovers([file.parent])
    result = fingerprint(job, check=stop.check)
    with writing_to(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)
        if page:
            from svdjax.fingerprint.page import write_fingerprint

            write_fingerprint(job.page, result)
    return FingerprintOutcome(file, job.page if page else None, result)


def fingerprint(job: FingerprintJob, *, check: Check = lambda where: None) -> dict[str, Any]:
    """The content of the file of `run_fingerprint`, with nothing written.

    All pairs are opened, and refused if they cannot be compared, before any is computed.
    """
    references = [*job.references, *([job.ancestor] if job.ancestor else [])]
    pairs = [open_pair(source, job.suspect) for source in references]
    third = open_pair(job.ancestor, job.references[0]) if job.ancestor else None
    results = [compare_pair(pair, job.thresholds, job.devices, check) for pair in pairs]
    if len(results) == 1:
        return results[0]
    # The verdict at the top is that on the nearest of the references proper.
    count = len(job.references)
    top = min(results[:count], key=lambda result: result["distance"])
    result = dict(top)
    result["references"] = [
        _summary(each, lineage.REFERENCE if number < count else lineage.ANCESTOR)
        for number, each in enumerate(results)
    ]
    result["nearest"] = lineage.nearest(results)
    if third is not None:
        results.append(compare_pair(third, job.thresholds, job.devices, check))
        result["ancestor"] = {"source": job.ancestor, **lineage.between(*results)}
    return result


def _summary(result: Mapping[str, Any], role: str) -> dict[str, Any]:
    """A comparison in short, for the list of all."""
    names = ("reference", "verdict", "distance", "p_value", "log10_p_value", "z")
    short = {name: result[name] for name in names}
    return {"role": role, **short, "related_parts": [p["part"] for p in result["related_parts"]]}
