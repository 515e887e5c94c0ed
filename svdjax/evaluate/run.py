"""Evaluation of a model on a benchmark, resumed after any interruption."""

from __future__ import annotations

import contextlib
import json
import pathlib
import time
from dataclasses import asdict, dataclass
from typing import Any

from svdjax.atomic import remove_leftovers, write_json
from svdjax.checkpoint import (
    input_digest,
    load_params,
    model_config,
    open_model,
    refuse_unused_base,
)
from svdjax.engine import devices
from svdjax.engine.dry_run import describe_lengths, describe_model, offline
from svdjax.engine.signals import StopRequest
from svdjax.engine.store import FORMAT_VERSION
from svdjax.engine.workdir import Workdir
from svdjax.engine.writing import writing_to
from svdjax.evaluate.benchmarks import Grader, read_benchmark
from svdjax.evaluate.evaluator import Evaluator, make_generator, repeat_prompts
from svdjax.evaluate.job import EvaluateJob
from svdjax.evaluate.responses import (
    ResponseJournal,
    questions_digest,
    statistics,
    write_responses,
)
from svdjax.model import decoder_mesh
from svdjax.text.chat import chat_model

SUMMARY, RESPONSES = "summary.json", "responses.jsonl"
_JOURNAL = ".responses.jsonl"
# Options that do not change the responses, so that a run may go on with other values of them.
_NOT_IN_CONFIG = ("out", "model", "base", "data", "batch_size", "devices", "tensor_parallel")


@dataclass(frozen=True)
class EvaluateOutcome:
    """Result of an evaluation.

    Attributes:
        out: Directory of its files.
        summary: Content of summary.json.
        asked: Number of responses of this run; the others are an earlier one's.
        was_finished: Whether there was nothing to do.
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
    """Asks a model the questions of a benchmark and grades its responses.

    Every response is written as soon as it is graded; a run that was killed goes on with the
    questions that are left, and ends with the same responses.

    Args:
        job: Model, benchmark and options.
        stop: The caller's entered `StopRequest`; without one, the run enters its own.

    Raises:
        InputError: Model, benchmark or directory cannot be used.
        Interrupted: SIGTERM or SIGINT; graded responses are kept.
    """
    if stop is None:
        with StopRequest() as own:
            return run_evaluate(job, stop=own)
    questions = read_benchmark(
        job.benchmark, job.data, limit=job.limit, seed=job.seed, split=job.split
    )
    mesh = decoder_mesh(job.devices, job.tensor_parallel)
    with open_model(job.model, job.base) as checkpoint:
        refuse_unused_base(job.base, [checkpoint])
        config = model_config(checkpoint)
        chat = chat_model(checkpoint, config, job.prompt_format)
        prompts = repeat_prompts(chat, questions, job.rounds, system=job.system)
        workdir = Workdir(job.out, flag="--out", kind="evaluation")
        config_entry = {k: v for k, v in asdict(job).items() if k not in _NOT_IN_CONFIG}
        state = {
            "config": config_entry | {"repeats": job.rounds},
            "inputs": {
                "model": input_digest(checkpoint),
                "questions": questions_digest(questions),
                "stop_tokens": sorted(chat.stop_tokens),
            },
            "versions": devices.versions(),
        }
        with contextlib.ExitStack() as stack:
            stack.enter_context(writing_to(workdir.path))
            stack.callback(workdir.close)
            journal = ResponseJournal(workdir.path / _JOURNAL)
            finished = _open(workdir, journal, state)
            if finished is not None:
                return finished
            grader = stack.enter_context(Grader())
            start = time.perf_counter()
            evaluator = Evaluator(chat, questions, prompts, grader, job, job.benchmark)
            responses, new = evaluator.responses(
                journal,
                lambda: make_generator(
                    load_params(checkpoint, config, None), chat, job, mesh=mesh, dtype=job.dtype
                ),
                stop.check,
            )
            summary = {
                "format_version": FORMAT_VERSION,
                "benchmark": job.benchmark,
                "model": job.model,
                **statistics(responses, job.rounds),
                "settings": state["config"],
                "seconds": time.perf_counter() - start,
            }
            write_responses(workdir.path / RESPONSES, responses)
            write_json(workdir.path / SUMMARY, summary)
            workdir.write_state(state | {"status": "done"})
            journal.remove()
            return EvaluateOutcome(workdir.path, summary, new)


def dry_run_evaluate(job: EvaluateJob) -> str:
    """What `run_evaluate` would ask and hold; nothing is fetched or written."""
    with offline():
        questions = read_benchmark(
            job.benchmark, job.data, limit=job.limit, seed=job.seed, split=job.split
        )
        mesh = decoder_mesh(job.devices, job.tensor_parallel)
        with open_model(job.model, job.base) as checkpoint:
            refuse_unused_base(job.base, [checkpoint])
            config = model_config(checkpoint)
            chat = chat_model(checkpoint, config, job.prompt_format)
            prompts = repeat_prompts(chat, questions, job.rounds, system=job.system)
            model = describe_model(checkpoint, config, job.dtype)
    lengths = [len(prompt.tokens) for repeat in prompts for prompt in repeat]
    return "\n".join(
        [
            f"dry run of {job.benchmark}: nothing is written",
            model,
            f"{len(questions)} question(s) x {job.rounds}: prompts of {describe_lengths(lengths)}, "
            f"at most {job.max_new_tokens} new ones (the context ends at "
            f"{config.max_position_embeddings}), {job.batch_size} decoded together",
            f"devices: {', '.join(devices.describe(mesh))}",
            f"{SUMMARY} and {RESPONSES} go to {job.out}",
        ]
    )


def _open(
    workdir: Workdir, journal: ResponseJournal, state: dict[str, Any]
) -> EvaluateOutcome | None:
    """Locks the directory; returns the outcome if it holds just this evaluation, finished."""
    workdir.lock()
    stored = workdir.state()
    for key in ("config", "inputs"):
        workdir.refuse_other(stored, key, state[key], f"another {key}")
    remove_leftovers([workdir.path])
    if stored.get("versions") == state["versions"]:
        files = [workdir.path / name for name in (SUMMARY, RESPONSES)]
        if stored.get("status") == "done" and all(file.is_file() for file in files):
            with contextlib.suppress(ValueError):
                summary = json.loads(files[0].read_text(encoding="utf-8"))
                # A run that was killed once it was done has left it.
                journal.remove()
                return EvaluateOutcome(workdir.path, summary, was_finished=True)
    else:
        # Responses of two versions are never mixed in one result.
        journal.remove()
    workdir.write_state(state | {"status": "running"})
    return None
