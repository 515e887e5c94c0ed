"""Attention entropy and maps of models on prompts, and CKA with the first model."""

from __future__ import annotations

import contextlib
import math
import pathlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from svdjax.atomic import read_npz, remove_leftovers, write_npz
from svdjax.checkpoint import (
    Checkpoint,
    ModelConfig,
    digest_of,
    input_digest,
    load_params,
    model_config,
    open_model,
    refuse_unused_base,
)
from svdjax.engine import devices
from svdjax.engine.dry_run import describe_lengths, describe_model, offline
from svdjax.engine.progress import note
from svdjax.engine.signals import StopRequest
from svdjax.engine.workdir import Workdir
from svdjax.engine.writing import writing_to
from svdjax.errors import InputError, missing_extra
from svdjax.evaluate.benchmarks.questions import SYSTEM
from svdjax.model import decoder_mesh
from svdjax.probe.job import ProbeJob, cka_label, model_names
from svdjax.probe.linearised import Linearised, why_not_one_function
from svdjax.probe.measure import Probes, linearise_model, probe_model
from svdjax.probe.results import CKA, ENTROPY, LINEARISED
from svdjax.text.chat import ChatModel, chat_model
from svdjax.text.prompts import PromptText, read_prompts

_FREE = ("models", "base", "prompts", "out", "devices", "tensor_parallel", "chosen")


@dataclass(frozen=True)
class ProbeOutcome:
    """Entropies and CKA of a probe, and the directory that holds them.

    Attributes:
        out: The directory.
        entropy: "<model>/last" and "<model>/mean" to [blocks, heads].
        cka: "<model>", and all four kinds of it, to [blocks of the first model, blocks].
        label: Name of the kind of CKA under "<model>".
        linearised: Each other model against the first one linearised, by name, if asked for.
        was_finished: Whether there was nothing to do.
    """

    out: pathlib.Path
    entropy: Mapping[str, np.ndarray]
    cka: Mapping[str, np.ndarray]
    label: str
    linearised: Mapping[str, Linearised] = field(default_factory=dict)
    was_finished: bool = False

    def text(self) -> str:
        """A few lines for stdout, with the paths."""
        names = [key.removesuffix("/last") for key in self.entropy if key.endswith("/last")]
        head = "nothing to do: already finished" if self.was_finished else "done"
        lines = [f"{head}: {len(names)} model(s)"]
        for name in names:
            similarity = float(np.mean(np.diagonal(self.cka[name])))
            shown = "not defined" if math.isnan(similarity) else f"{similarity:.4f}"
            entropy = float(np.mean(self.entropy[f"{name}/last"]))
            lines.append(
                f"  {name}: attention entropy of the last position {entropy:.3f} nats, "
                f"{self.label} with {names[0]} block by block {shown}"
            )
        lines += [f"  {name}: {each.text(names[0])}" for name, each in self.linearised.items()]
        files = (ENTROPY, CKA, *([LINEARISED] if self.linearised else []), "figures")
        return "\n".join([*lines, *(str(self.out / file) for file in files)])


class _Model(NamedTuple):
    name: str
    checkpoint: Checkpoint
    config: ModelConfig
    prompts: list[tuple[int, ...]]
    chat: ChatModel


def run_probe(
    job: ProbeJob, *, draw: bool = False, stop: StopRequest | None = None
) -> ProbeOutcome:
    """Probes models one after the other and compares them with the first.

    Args:
        job: Models, prompts and settings.
        draw: Whether figures are drawn.
        stop: The caller's entered `StopRequest`; without one, the run enters its own.

    Raises:
        InputError: Models, prompts or directory cannot be used.
        Interrupted: SIGTERM or SIGINT.
    """
    if stop is None:
        with StopRequest(resumes=False) as own:
            return run_probe(job, draw=draw, stop=own)
    prompts = read_prompts(job.prompts, job.limit)
    mesh = decoder_mesh(job.devices, job.tensor_parallel)
    with contextlib.ExitStack() as stack:
        models = _open_models(job, prompts, stack)
        state = _state(job, prompts, models)
        workdir = Workdir(job.out, flag="--out", kind="probe")
        stack.enter_context(writing_to(workdir.path))
        stack.callback(workdir.close)
        finished = _claim(workdir, state)
        if finished is not None:
            return finished
        shortest = min(len(prompt) for model in models for prompt in model.prompts)
        probes = Probes(job.kind)
        for model in models:
            probes.add(
                model.name,
                probe_model(
                    model.name,
                    load_params(model.checkpoint, model.config, None),
                    model.config,
                    model.prompts,
                    mesh=mesh,
                    positions=shortest,
                    maps=job.maps,
                    dtype=job.dtype,
                    check=stop.check,
                ),
            )
            note(f"probed {model.name}: {len(model.prompts)} prompt(s)")
        linearised = _linearise(models, mesh, stop) if job.linearised else {}
        (workdir.path / "figures").mkdir(exist_ok=True)
        probes.write(workdir.path)
        if linearised:
            arrays = {name: each.arrays() for name, each in linearised.items()}
            write_npz(workdir.path / LINEARISED, flatten_dict(arrays, sep="/"))
        missing = missing_extra("matplotlib", "figures", "no figures without")
        if draw and missing:
            note(missing)
        elif draw:
            from svdjax.probe.drawing import draw_probes

            note("drawing")
            draw_probes(
                workdir.path / "figures",
                probes,
                [model.name for model in models],
                blocks=job.chosen.choose if job.blocks else None,
                label=f"CKA over {job.samples}s",
            )
        workdir.write_state(state | {"status": "done"})
        label = cka_label(job.samples, job.debiased)
        return ProbeOutcome(workdir.path, probes.entropy, probes.cka, label, linearised)


def _linearise(
    models: list[_Model], mesh: jax.sharding.Mesh, stop: StopRequest
) -> dict[str, Linearised]:
    """Every other model on its own prompts, against the first one linearised."""
    first, *others = models
    base = load_params(first.checkpoint, first.config, None)
    results = {}
    for model in others:
        results[model.name] = linearise_model(
            model.name,
            base,
            load_params(model.checkpoint, model.config, None),
            model.config,
            model.prompts,
            mesh=mesh,
            check=stop.check,
        )
        note(f"linearised {first.name} towards {model.name}: {len(model.prompts)} prompt(s)")
    return results


def dry_run_probe(job: ProbeJob) -> str:
    """What `run_probe` would read and hold; nothing is fetched or written."""
    with offline(), contextlib.ExitStack() as stack:
        prompts = read_prompts(job.prompts, job.limit)
        mesh = decoder_mesh(job.devices, job.tensor_parallel)
        lines = ["dry run of a probe: nothing is written"]
        for model in _open_models(job, prompts, stack):
            lengths = [len(prompt) for prompt in model.prompts]
            shape = describe_model(model.checkpoint, model.config, job.dtype)
            lines.append(
                f"{model.name}: {shape}; {len(lengths)} prompt(s) of {describe_lengths(lengths)}"
            )
    return "\n".join(
        [
            *lines,
            f"devices: {', '.join(devices.describe(mesh))}",
            f"{ENTROPY}, {CKA} and figures go to {job.out}",
        ]
    )


def _open_models(
    job: ProbeJob, prompts: tuple[PromptText, ...], stack: contextlib.ExitStack
) -> list[_Model]:
    """All models with their prompts' tokens; raises `InputError` with every fault of every one."""
    models, faults = [], []
    system = SYSTEM if job.system is None else job.system
    for source, name in zip(job.models, model_names(job.models)):
        try:
            checkpoint = stack.enter_context(open_model(source, job.base))
            config = model_config(checkpoint)
            if job.blocks:
                job.chosen.choose(config.num_layers)
            chat = chat_model(checkpoint, config, job.prompt_format)
            tokens = [chat.prompt(p.text, system, p.location).tokens for p in prompts]
            models.append(_Model(name, checkpoint, config, tokens, chat))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    if job.linearised:
        _refuse_other_functions(models)
    refuse_unused_base(job.base, [model.checkpoint for model in models])
    return models


def _refuse_other_functions(models: list[_Model]) -> None:
    """Raises `InputError` where a model is no other value of the first one's weights."""
    first, *others = models
    faults = [
        f"{model.name}: --linearised compares it with {first.name} linearised, and {why}; leave "
        "one of the two out"
        for model in others
        if (
            why := why_not_one_function(
                first.config, model.config, first.chat, model.chat, model.prompts
            )
        )
    ]
    if not others:
        faults.append("--linearised: expected two models or more, the first to be linearised")
    if faults:
        raise InputError(" | ".join(faults))


def _state(job: ProbeJob, prompts: tuple[PromptText, ...], models: list[_Model]) -> dict[str, Any]:
    return {
        "config": {k: v for k, v in asdict(job).items() if k not in _FREE},
        "inputs": {
            "models": {model.name: input_digest(model.checkpoint) for model in models},
            "prompts": digest_of([prompt.text for prompt in prompts]),
        },
        "versions": devices.versions(),
        "sources": {model.name: source for model, source in zip(models, job.models)},
        "count": len(prompts),
    }


def _claim(workdir: Workdir, state: dict[str, Any]) -> ProbeOutcome | None:
    """Locks the directory; the outcome if it holds just this probe, finished."""
    workdir.lock()
    stored = workdir.state()
    for key in ("config", "inputs"):
        workdir.refuse_other(stored, key, state[key], f"another {key}")
    remove_leftovers([workdir.path, workdir.path / "figures"])
    if stored.get("status") == "done" and stored.get("versions") == state["versions"]:
        # Damaged files count as missing: they are made again.
        with contextlib.suppress(OSError, ValueError, KeyError):
            entropy, cka = (read_npz(workdir.path / name) for name in (ENTROPY, CKA))
            label = cka_label(state["config"]["samples"], state["config"]["debiased"])
            linearised = {}
            if state["config"]["linearised"]:
                arrays = unflatten_dict(read_npz(workdir.path / LINEARISED), sep="/")
                linearised = {k: Linearised.from_arrays(each) for k, each in arrays.items()}
            return ProbeOutcome(workdir.path, entropy, cka, label, linearised, was_finished=True)
    workdir.write_state(state | {"status": "running"})
    return None
