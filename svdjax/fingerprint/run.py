"""A verdict on common origin: one suspect, one reference or more, one file and a page."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from svdjax.atomic import remove_leftovers, write_json
from svdjax.engine.signals import StopRequest
from svdjax.engine.writing import writing_to
from svdjax.fingerprint import several
from svdjax.fingerprint.candidates import Check
from svdjax.fingerprint.compare import compare_pair
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.sides import open_pair
from svdjax.fingerprint.wording import sentences


class Pages(Protocol):
    """What the command hands in to write the page."""

    def write_fingerprint(self, path: pathlib.Path, result: Mapping[str, Any]) -> pathlib.Path: ...


@dataclass(frozen=True)
class FingerprintOutcome:
    """The verdict and where it was written.

    Attributes:
      file: the JSON file; None where nothing was written.
      page: the report; None where nothing was written.
      result: the content of the file.
    """

    file: pathlib.Path | None
    page: pathlib.Path | None
    result: Mapping[str, Any]

    def text(self) -> str:
        """A few lines for stdout, with the paths."""
        paths = (str(path) for path in (self.file, self.page) if path)
        return "\n".join([*sentences(self.result), *paths])


def run_fingerprint(
    job: FingerprintJob, pages: Pages | None = None, *, stop: StopRequest | None = None
) -> FingerprintOutcome:
    """Gives a verdict on common origin and writes it to exactly ``job.out``.

    Args:
      job: the checkpoints and the file.
      pages: module with `write_fingerprint`, for the report beside the file; None writes none.
      stop: the caller's entered `StopRequest`; without one, the run enters its own.

    Raises:
      InputError: a checkpoint cannot be read, two cannot be compared, or the file not written.
      Interrupted: SIGTERM or SIGINT; nothing is written then.
    """
    if stop is None:
        with StopRequest(resumes=False) as own:
            return run_fingerprint(job, pages, stop=own)
    file, page = job.file, None
    remove_leftovers([file.parent])
    result = fingerprint(job, check=stop.check)
    with writing_to(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)
        if pages is not None:
            page = pages.write_fingerprint(job.page, result)
    return FingerprintOutcome(file, page, result)


def fingerprint(job: FingerprintJob, *, check: Check = lambda where: None) -> dict[str, Any]:
    """What `run_fingerprint` writes, with nothing written.

    All pairs are opened, and refused if they cannot be compared, before any is computed.
    """
    references = [*job.references, *([job.ancestor] if job.ancestor else [])]
    pairs = [open_pair(source, job.suspect) for source in references]
    line = open_pair(job.ancestor, job.references[0]) if job.ancestor else None
    results = [compare_pair(pair, job.thresholds, job.devices, check) for pair in pairs]
    if len(results) == 1:
        return results[0]
    # The verdict at the top is that on the nearest of the references proper.
    count = len(job.references)
    top = min(results[:count], key=lambda result: result["distance"])
    result = dict(top)
    result["references"] = [
        _summary(each, several.REFERENCE if number < count else several.ANCESTOR)
        for number, each in enumerate(results)
    ]
    result["nearest"] = several.nearest(results)
    if line is not None:
        direct = compare_pair(line, job.thresholds, job.devices, check)
        order = several.between(results[0], results[1], direct)
        result["ancestor"] = {"source": job.ancestor, **order}
    return result


def _summary(result: Mapping[str, Any], role: str) -> dict[str, Any]:
    """A comparison in short, for the list of all of them."""
    names = ("reference", "verdict", "distance", "p_value", "log10_p_value", "z")
    short = {name: result[name] for name in names}
    return {"role": role, **short, "related_parts": [p["part"] for p in result["related_parts"]]}
