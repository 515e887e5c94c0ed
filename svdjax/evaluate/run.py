"""Evaluates a model on a benchmark, through any interruption."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from dataclasses import asdict, dataclass
from typing import Any

from svdjax.atomic import remove_leftovers, write_json
from svdjax.checkpoint import input_digest, load_params, model_config, open_checkpoint
from svdjax.engine import devices
from svdjax.engine.signals import StopRequest
from svdjax.engine.store import FORMAT_VERSION
from svdjax.engine.workdir import Workdir
from svdjax.engine.writing import writing_to
from svdjax.evaluate.asking import Asking, make_generator, repeat_prompts
from svdjax.evaluate.benchmarks import Grader, read_benchmark
from svdjax.evaluate.job import EvaluateJob
from svdjax.evaluate.responses import (
    Journal,
    Response,
    questions_digest,
    statistics,
    write_responses,
)
from svdjax.model import decoder_mesh
from svdjax.text.chat import chat_model

SUMMARY, RESPONSES = "summary.json", "responses.jsonl"
_JOURNAL = ".responses.jsonl"
# What the answers do not depend on, so that a run may go on with other values of it.
_FREE = ("out", "model", "data", "batch_size", "devices", "tensor_parallel")


@dataclass(frozen=True)
class EvaluateOutcome:
    """What an evaluation found.

    Attributes:
        out: Where its files lie.
        summary: The content of summary.json.
        asked: Answers made by this run; the others are an earlier one's.
        was_finished: There was nothing to do.
    """

    out: pathlib.Path
    summary: dict[str, Any]
    asked: int = 0
    was_finished: bool = False

    def text(self) -> str:
        """Two lines for stdout, with the paths."""
        s = self.summary
        head = "nothing to do: already finished" if self.was_finished else "done"
        return (
            f"{head}: {s['benchmark']}, {s['n']} question(s) x {s['repeats']}: pass@1 "
            f"{s['accuracy_mean']:.2f} ± {s['accuracy_std']:.2f} %, {s['tokens_mean']:.1f} ± "
            f"{s['tokens_std']:.1f} tokens\n{self.out / SUMMARY}\n{self.out / RESPONSES}"
        )


def run_evaluate(job: EvaluateJob, *, stop: StopRequest | None = None) -> EvaluateOutcome:
    """Asks a model the questions of a benchmark and grades its answers.

    Every answer is kept as soon as it is graded; a run that was killed goes on with the questions
    that are left, and ends with the same answers.

    Args:
        job: Model, benchmark and how.
        stop: The caller's entered `StopRequest`; without one, the run enters its own.

    Raises:
        InputError: Model, benchmark or directory cannot be used.
        Interrupted: SIGTERM or SIGINT; what was answered is kept.
    """
    if stop is None:
        with StopRequest() as own:
            return run_evaluate(job, stop=own)
    questions = read_benchmark(
        job.benchmark, job.data, limit=job.limit, seed=job.seed, split=job.split
    )
    mesh = decoder_mesh(job.devices, job.tensor_parallel)
    with open_checkpoint(job.model) as checkpoint:
        config = model_config(checkpoint.home)
        chat = chat_model(checkpoint, config, job.prompt_format)
        prompts = repeat_prompts(chat, questions, job.rounds, system=job.system)
        place = Workdir(job.out, flag="--out", kind="evaluation")
        state = {
            "config": {k: v for k, v in asdict(job).items() if k not in _FREE}
            | {"repeats": job.rounds},
            "inputs": {
                "model": input_digest(checkpoint),
                "questions": questions_digest(questions),
                "stop_tokens": sorted(chat.stop_tokens),
            },
            "versions": devices.versions(),
        }
        with contextlib.ExitStack() as stack:
            stack.enter_context(writing_to(place.path))
            stack.callback(place.close)
            finished = _take(place, state)
            if finished is not None:
                return finished
            grader = stack.enter_context(Grader())
            journal = Journal(place.path / _JOURNAL)
            began = time.perf_counter()
            asking = Asking(chat, questions, prompts, grader, job, job.benchmark)
            responses, new = asking.answers(
                journal,
                lambda: make_generator(
                    load_params(checkpoint, config, None), chat, job, mesh=mesh, dtype=job.dtype
                ),
                stop.check,
            )
            seconds = time.perf_counter() - began
            summary = _write(job, place, state, responses, seconds)
            journal.remove()
            return EvaluateOutcome(place.path, summary, new)


def _write(
    job: EvaluateJob,
    place: Workdir,
    state: dict[str, Any],
    responses: list[Response],
    seconds: float,
) -> dict[str, Any]:
    """Writes everything there is to write at the end; returns the summary."""
    summary = {
        "format_version": FORMAT_VERSION,
        "benchmark": job.benchmark,
        "model": job.model,
        **statistics(responses, job.rounds),
        "settings": state["config"],
        "seconds": seconds,
    }
    write_responses(place.path / RESPONSES, responses)
    write_json(place.path / SUMMARY, summary)
    place.write_state(state | {"status": "done"})
    return summary


def _take(place: Workdir, state: dict[str, Any]) -> EvaluateOutcome | None:
    """Locks the directory; the outcome if it holds just this evaluation, finished."""
    place.lock()
    there = place.state()
    for key in ("config", "inputs"):
        place.refuse_other(there, key, state[key], f"another {key}")
    remove_leftovers([place.path])
    if there.get("versions") == state["versions"]:
        files = [place.path / name for name in (SUMMARY, RESPONSES)]
        if there.get("status") == "done" and all(file.is_file() for file in files):
            with contextlib.suppress(ValueError):
                summary = json.loads(files[0].read_text(encoding="utf-8"))
                # What a run leaves that is killed once it is done.
                Journal(place.path / _JOURNAL).remove()
                return EvaluateOutcome(place.path, summary, was_finished=True)
    else:
        # Answers of two versions are never mixed in one result.
        (place.path / _JOURNAL).unlink(missing_ok=True)
    place.write_state(state | {"status": "running"})
    return None
