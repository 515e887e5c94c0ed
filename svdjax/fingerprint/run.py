"""The verdict on a common origin: one suspect, one reference or more, one file and a page."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from svdjax.atomic import plain, remove_leftovers, write_json
from svdjax.engine import devices
from svdjax.engine.dry_run import offline
from svdjax.engine.progress import note
from svdjax.engine.signals import StopRequest
from svdjax.engine.work.unit import Check, Here, Workers, failures
from svdjax.engine.writing import check_writable, writing_to
from svdjax.errors import WorkersLost
from svdjax.fingerprint import lineage
from svdjax.fingerprint.findings import sentences
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.pair import Pair
from svdjax.fingerprint.session import open_session
from svdjax.fingerprint.work import PairsWork, inputs, open_pairs


@dataclass(frozen=True)
class FingerprintOutcome:
    """The verdict and the files that hold it.

    Attributes:
        file: The JSON file.
        page: The report; None where none was written.
        result: The content of the file.
        was_finished: Whether there was nothing to do.
    """

    file: pathlib.Path
    page: pathlib.Path | None
    result: Mapping[str, Any]
    was_finished: bool = False

    def text(self) -> str:
        """A few lines for stdout, with the paths."""
        paths = (str(path) for path in (self.file, self.page) if path)
        head = ["nothing to do: already finished"] * self.was_finished
        return "\n".join([*head, *sentences(self.result), *paths])


def run_fingerprint(
    job: FingerprintJob,
    *,
    page: bool = False,
    stop: StopRequest | None = None,
    workers: str = "here",
) -> FingerprintOutcome:
    """Gives a verdict on a common origin and writes it to exactly ``job.out``.

    Args:
        job: The checkpoints and the file.
        page: Whether the report beside the file is written.
        stop: The caller's entered `StopRequest`; without one, the run enters its own.
        workers: Who compares: ``here``, this process over all its devices, or ``ray``, workers of a
            Ray cluster with ``job.devices`` each (one by default), pair by pair.

    Raises:
        InputError: A checkpoint cannot be read, two cannot be compared, or the file not written.
        Interrupted: SIGTERM or SIGINT; nothing is written then.
        WorkersLost: Workers died of a pair, or there are none; nothing is written then.
    """
    if stop is None:
        with StopRequest(resumes=False) as own:
            return run_fingerprint(job, page=page, stop=own, workers=workers)
    file = job.file
    remove_leftovers([file.parent])
    pairs = open_pairs(job, check=stop.check)
    request = _request(job, pairs)
    finished = _finished(job, request) if not page or job.page.is_file() else None
    if finished is not None:
        return FingerprintOutcome(file, job.page if page else None, finished, was_finished=True)
    check_writable(file.parent, "--out")
    with contextlib.ExitStack() as stack:
        who = stack.enter_context(_on_ray(job, pairs, stop)) if workers == "ray" else Here()
        result = _judged(job, pairs, who, stop.check) | {"request": request}
    with writing_to(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, result)
        if page:
            from svdjax.fingerprint.page import write_fingerprint

            write_fingerprint(job.page, result)
    return FingerprintOutcome(file, job.page if page else None, result)


def dry_run_fingerprint(job: FingerprintJob) -> str:
    """What `run_fingerprint` would compare; nothing is written, nor fetched unless streamed."""
    with contextlib.nullcontext() if job.stream else offline():
        pairs = open_pairs(job)
    lines = ["dry run of a fingerprint: nothing is written"]
    for pair in pairs:
        models = (pair.reference, pair.suspect)
        blocks = " and ".join(str(model.config.num_layers) for model in models)
        lines.append(
            f"{pair.reference.checkpoint.source} and {pair.suspect.checkpoint.source}: {blocks} "
            f"blocks, {', '.join(pair.projections)}"
        )
        lines += [f"  {remark}" for remark in pair.notes]
    return "\n".join([*lines, f"the verdict goes to {job.file}, a page to {job.page}"])


def _request(job: FingerprintJob, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Whatever determines the verdict, as the file has it."""
    asked = {name: getattr(job, name) for name in ("reference", "suspect", "ancestor")}
    limits = dataclasses.asdict(job.thresholds)
    known = {"thresholds": limits, "inputs": inputs(pairs), "versions": devices.versions()}
    return plain(asked | known)


def _finished(job: FingerprintJob, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of the file, where it is the answer to just this request."""
    with contextlib.suppress(OSError, ValueError):
        result = json.loads(job.file.read_text(encoding="utf-8"))
        if isinstance(result, dict) and result.get("request") == request:
            return result
    return None


def fingerprint(job: FingerprintJob, *, check: Check = lambda where: None) -> dict[str, Any]:
    """The content of the file of `run_fingerprint`, with nothing written.

    All pairs are opened, and refused if they cannot be compared, before any is computed.
    """
    return _judged(job, open_pairs(job), Here(), check)


@contextlib.contextmanager
def _on_ray(job: FingerprintJob, pairs: Sequence[Pair], stop: StopRequest) -> Iterator[Workers]:
    """Workers of a Ray cluster that open the same pairs."""
    from svdjax.engine.work.ray import RayWorkers

    job = dataclasses.replace(job, devices=job.devices or 1)
    expected = {"versions": devices.versions(), "inputs": inputs(pairs)}
    arguments = (job, expected["inputs"])
    with RayWorkers(open_session, arguments, expected, devices=job.devices, stop=stop) as workers:
        workers.open(stop.check)
        yield workers


def _judged(
    job: FingerprintJob, pairs: Sequence[Pair], workers: Workers, check: Check
) -> dict[str, Any]:
    """The content of the file, of pairs as `open_pairs` returns them."""
    work = PairsWork(job, pairs)
    compared: dict[int, dict[str, Any]] = {}
    for piece in workers.do(work, work.units(), check):
        compared[piece.unit.task] = piece.value
        if len(pairs) > 1:
            note(f"compared {len(compared)}/{len(pairs)} pairs of models: {piece.unit.label}")
    if workers.failed:
        raise WorkersLost(f"{failures(workers.failed)}; nothing was written")
    if len(compared) == 1:
        return compared[0]
    results = [compared[number] for number in range(len(pairs))]
    suspected = results[: len(results) - bool(job.ancestor)]  # not ancestor and reference
    # The verdict at the top is that on the nearest of the references proper.
    count = len(job.references)
    top = min(results[:count], key=lambda result: result["distance"])
    result = dict(top)
    result["references"] = [
        _summary(each, lineage.REFERENCE if number < count else lineage.ANCESTOR)
        for number, each in enumerate(suspected)
    ]
    result["nearest"] = lineage.nearest(suspected)
    if job.ancestor:
        result["ancestor"] = {"source": job.ancestor, **lineage.between(*results)}
    return result


def _summary(result: Mapping[str, Any], role: str) -> dict[str, Any]:
    """A comparison in short, for the list of all."""
    names = ("reference", "verdict", "distance", "p_value", "log10_p_value", "z")
    short = {name: result[name] for name in names}
    return {"role": role, **short, "related_parts": [p["part"] for p in result["related_parts"]]}
