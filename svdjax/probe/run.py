"""Probes models on prompts: attention entropy and maps, CKA against the first model."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from svdjax.atomic import read_npz, remove_leftovers
from svdjax.checkpoint import (
    Checkpoint,
    ModelConfig,
    digest_of,
    input_digest,
    load_params,
    model_config,
    open_checkpoint,
)
from svdjax.engine import devices
from svdjax.engine.progress import note
from svdjax.engine.signals import StopRequest
from svdjax.engine.workdir import Workdir
from svdjax.engine.writing import writing_to
from svdjax.errors import InputError
from svdjax.evaluate.benchmarks.questions import SYSTEM
from svdjax.model import decoder_mesh
from svdjax.probe.job import ProbeJob, cka_words, model_names
from svdjax.probe.measure import Probes, probed
from svdjax.probe.results import CKA, ENTROPY
from svdjax.text.chat import chat_model
from svdjax.text.prompts import PromptText, read_prompts

_FREE = ("models", "prompts", "out", "devices", "tensor_parallel", "chosen")


class Figures(Protocol):
    """What the door hands in to draw."""

    def write_probes(
        self,
        directory: pathlib.Path,
        *,
        first: str,
        blocks: Any,
        entropy: Mapping[str, np.ndarray],
        cka: Mapping[str, np.ndarray],
        maps: Mapping[str, np.ndarray],
        words: str = "CKA",
    ) -> list[pathlib.Path]: ...


@dataclass(frozen=True)
class ProbeOutcome:
    """What was found, and where it lies.

    Attributes:
      out: the directory.
      entropy: "<model>/last" and "<model>/mean" to [blocks, heads].
      cka: "<model>", and all four kinds of it, to [blocks of the first model, blocks].
      kind: what the CKA under "<model>" is called.
      was_finished: there was nothing to do.
    """

    out: pathlib.Path
    entropy: Mapping[str, np.ndarray]
    cka: Mapping[str, np.ndarray]
    kind: str
    was_finished: bool = False

    def text(self) -> str:
        """A few lines for stdout, with the paths."""
        names = [key.removesuffix("/last") for key in self.entropy if key.endswith("/last")]
        head = "nothing to do: already finished" if self.was_finished else "done"
        lines = [f"{head}: {len(names)} model(s)"]
        for name in names:
            own = float(np.mean(np.diagonal(self.cka[name])))
            shown = "not defined" if math.isnan(own) else f"{own:.4f}"
            entropy = float(np.mean(self.entropy[f"{name}/last"]))
            lines.append(
                f"  {name}: attention entropy of the last position {entropy:.3f} nats, {self.kind} "
                f"with {names[0]} block by block {shown}"
            )
        return "\n".join([*lines, *(str(self.out / file) for file in (ENTROPY, CKA, "figures"))])


@dataclass(frozen=True)
class _Model:
    name: str
    checkpoint: Checkpoint
    config: ModelConfig
    prompts: list[tuple[int, ...]]


def run_probe(
    job: ProbeJob, figures: Figures | None = None, *, stop: StopRequest | None = None
) -> ProbeOutcome:
    """Lets models read prompts, one model after the other, and compares what goes on inside.

    Args:
      job: models, prompts and how.
      figures: module with `write_probes`; None draws nothing.
      stop: the caller's entered `StopRequest`; without one, the run enters its own.

    Raises:
      InputError: models, prompts or directory cannot be used.
      Interrupted: SIGTERM or SIGINT.
    """
    if stop is None:
        with StopRequest(resumes=False) as own:
            return run_probe(job, figures, stop=own)
    asked = read_prompts(job.prompts, job.limit)
    mesh = decoder_mesh(job.devices, job.tensor_parallel)
    with contextlib.ExitStack() as stack:
        models = _open(job, asked, stack)
        state = _state(job, asked, models)
        where = Workdir(job.out, flag="--out", kind="probe")
        stack.enter_context(writing_to(where.path))
        stack.callback(where.close)
        finished = _take(where, state)
        if finished is not None:
            return finished
        shortest = min(len(prompt) for one in models for prompt in one.prompts)
        probes = Probes(job.kind)
        for one in models:
            probes.add(
                one.name,
                probed(
                    one.name,
                    load_params(one.checkpoint, one.config, None),
                    one.config,
                    one.prompts,
                    mesh=mesh,
                    positions=shortest,
                    maps=job.maps,
                    dtype=job.dtype,
                    check=stop.check,
                ),
            )
        (where.path / "figures").mkdir(exist_ok=True)
        probes.write(where.path)
        entropy, cka = probes.entropy, probes.cka
        if figures is not None:
            note("drawing")
            figures.write_probes(
                where.path / "figures",
                first=models[0].name,
                blocks=job.chosen.choose if job.blocks else None,
                entropy=entropy,
                cka={one.name: cka[one.name] for one in models},
                maps=probes.maps,
                words=f"CKA over {job.samples}s",
            )
        where.write_state(state | {"status": "done"})
        return ProbeOutcome(where.path, entropy, cka, cka_words(job.samples, job.debiased))


def _open(
    job: ProbeJob, asked: tuple[PromptText, ...], stack: contextlib.ExitStack
) -> list[_Model]:
    """All models with their prompts; every fault of every one is told at once."""
    models, faults = [], []
    system = SYSTEM if job.system is None else job.system
    for source, name in zip(job.models, model_names(job.models)):
        try:
            checkpoint = stack.enter_context(open_checkpoint(source))
            config = model_config(checkpoint.home)
            if job.blocks:
                job.chosen.choose(config.num_layers)
            chat = chat_model(checkpoint, config, job.prompt_format)
            prompts = [chat.prompt(one.text, system, one.location).tokens for one in asked]
            models.append(_Model(name, checkpoint, config, prompts))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    return models


def _state(job: ProbeJob, asked: tuple[PromptText, ...], models: list[_Model]) -> dict[str, Any]:
    return {
        "config": {k: v for k, v in asdict(job).items() if k not in _FREE},
        "inputs": {
            "models": {one.name: input_digest(one.checkpoint) for one in models},
            "prompts": digest_of([one.text for one in asked]),
        },
        "versions": devices.versions(),
        "sources": {one.name: source for one, source in zip(models, job.models)},
        "count": len(asked),
    }


def _take(where: Workdir, state: dict[str, Any]) -> ProbeOutcome | None:
    """Locks the directory; the outcome if it holds just this probe, finished."""
    where.lock()
    there = where.state()
    for key in ("config", "inputs"):
        where.refuse_other(there, key, state[key], f"another {key}")
    remove_leftovers([where.path, where.path / "figures"])
    if there.get("status") == "done" and there.get("versions") == state["versions"]:
        # Damaged like missing: it is made again.
        with contextlib.suppress(OSError, ValueError):
            entropy, cka = (read_npz(where.path / name) for name in (ENTROPY, CKA))
            kind = cka_words(state["config"]["samples"], state["config"]["debiased"])
            return ProbeOutcome(where.path, entropy, cka, kind, was_finished=True)
    where.write_state(state | {"status": "running"})
    return None
