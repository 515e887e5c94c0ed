"""Probes models on prompts: attention entropy and maps, CKA against the first model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pathlib
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
import tqdm

from svdjax.atomic import remove_leftovers, write_npz
from svdjax.behaviour.benchmarks.wording import SYSTEM
from svdjax.behaviour.chat import ChatModel
from svdjax.behaviour.cka import cka_from_grams, grams
from svdjax.behaviour.probing import Probed, probe
from svdjax.behaviour.prompts import Asked, read_prompts
from svdjax.checkpoint import (
    Checkpoint,
    ModelConfig,
    input_digest,
    load_params,
    model_config,
    open_checkpoint,
)
from svdjax.engine import devices
from svdjax.engine.behaviour.probe_job import ProbeJob, model_names
from svdjax.engine.progress import note
from svdjax.engine.stop import StopRequest
from svdjax.engine.workdir import Workdir
from svdjax.engine.writing import writing_to
from svdjax.errors import InputError
from svdjax.model import decoder_mesh, place

ENTROPY, CKA, MAPS = "entropy.npz", "cka.npz", "maps.npz"
# Maps take [blocks, tokens, tokens]; of longer prompts nobody sees the cells anyway.
_MOST_MAPPED = 512
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
    ) -> list[pathlib.Path]: ...


@dataclass(frozen=True)
class ProbeOutcome:
    """What was found, and where it lies.

    Attributes:
      out: the directory.
      entropy: "<model>/last" and "<model>/mean" to [blocks, heads].
      cka: "<model>", and all four kinds of it, to [blocks of the first model, blocks].
      was_finished: there was nothing to do.
    """

    out: pathlib.Path
    entropy: Mapping[str, np.ndarray]
    cka: Mapping[str, np.ndarray]
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
                f"  {name}: attention entropy of the last position {entropy:.3f} nats, CKA with "
                f"{names[0]} block by block {shown}"
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
        with StopRequest() as own:
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
        entropy: dict[str, np.ndarray] = {}
        cka: dict[str, np.ndarray] = {}
        maps: dict[str, np.ndarray] = {}
        first: dict[str, np.ndarray] = {}
        for one in models:
            found = _probed(job, one, mesh, shortest, stop)
            entropy[f"{one.name}/last"] = found.entropy_last
            entropy[f"{one.name}/mean"] = found.entropy_mean
            if found.maps is not None:
                maps[one.name] = found.maps
            hidden = {"prompt": found.tokens, "position": found.positions}
            mine = {k: grams(x) for k, x in hidden.items() if x.shape[1] > 1}
            first = first or mine
            cka |= _compared(job, one.name, first, mine, len(models[0].config.windows), found)
        (where.path / "figures").mkdir(exist_ok=True)
        write_npz(where.path / ENTROPY, entropy)
        write_npz(where.path / CKA, cka)
        if maps:
            write_npz(where.path / MAPS, maps)
        if figures is not None:
            note("drawing")
            figures.write_probes(
                where.path / "figures",
                first=models[0].name,
                blocks=job.chosen.choose if job.blocks else None,
                entropy=entropy,
                cka={one.name: cka[one.name] for one in models},
                maps=maps,
            )
        where.write_state(state | {"status": "done"})
        return ProbeOutcome(where.path, entropy, cka)


def _open(job: ProbeJob, asked: tuple[Asked, ...], stack: contextlib.ExitStack) -> list[_Model]:
    """All models with their prompts; every fault of every one is told at once."""
    models, faults = [], []
    system = SYSTEM if job.system is None else job.system
    for source, name in zip(job.models, model_names(job.models)):
        try:
            checkpoint = stack.enter_context(open_checkpoint(source))
            config = model_config(checkpoint.path)
            if job.blocks:
                job.chosen.choose(config.num_layers)
            chat = ChatModel(checkpoint.path, config, job.prompt_format)
            prompts = [chat.prompt(one.text, system, one.place).tokens for one in asked]
            models.append(_Model(name, checkpoint, config, prompts))
        except InputError as error:
            faults.append(str(error))
    if faults:
        raise InputError(" | ".join(dict.fromkeys(faults)))
    return models


def _state(job: ProbeJob, asked: tuple[Asked, ...], models: list[_Model]) -> dict[str, Any]:
    texts = json.dumps([one.text for one in asked]).encode()
    return {
        "config": {k: v for k, v in asdict(job).items() if k not in _FREE},
        "inputs": {
            "models": {one.name: input_digest(one.checkpoint) for one in models},
            "prompts": hashlib.sha256(texts).hexdigest(),
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
            arrays = []
            for name in (ENTROPY, CKA):
                with np.load(where.path / name, allow_pickle=False) as stored:
                    arrays.append({key: stored[key] for key in stored.files})
            return ProbeOutcome(where.path, arrays[0], arrays[1], was_finished=True)
    where.write_state(state | {"status": "running"})
    return None


def _probed(job: ProbeJob, one: _Model, mesh: Any, shortest: int, stop: StopRequest) -> Probed:
    dtype = jnp.dtype(job.dtype)
    params = place(load_params(one.checkpoint, one.config, None), mesh, dtype)
    mapped = job.maps and len(one.prompts[0]) <= _MOST_MAPPED
    if job.maps and not mapped:
        note(f"{one.name}: no attention maps of a prompt longer than {_MOST_MAPPED} tokens")
    bar = tqdm.tqdm(
        total=len(one.prompts),
        desc=f"probing {one.name}",
        file=sys.stderr,
        leave=False,
        disable=not sys.stderr.isatty(),
    )
    with bar:

        def done(count: int) -> None:
            bar.update(count - bar.n)
            stop.check(f"while {one.name} read the prompts")

        found = probe(
            params,
            one.config,
            one.prompts,
            mesh=mesh,
            positions=shortest,
            maps=mapped,
            dtype=dtype,
            done=done,
        )
    note(f"probed {one.name}: {len(one.prompts)} prompt(s)")
    return found


def _compared(
    job: ProbeJob,
    name: str,
    first: Mapping[str, np.ndarray],
    mine: Mapping[str, np.ndarray],
    blocks: int,
    found: Probed,
) -> dict[str, np.ndarray]:
    """CKA of every kind, [blocks of the first model, blocks]; NaN where samples are too few."""
    result = {}
    for samples in ("prompt", "position"):
        for suffix, debiased, least in (("", False, 2), ("_debiased", True, 4)):
            values = np.full((blocks, len(found.tokens)), np.nan)
            if samples in first and first[samples].shape[1] >= least:
                values = cka_from_grams(first[samples], mine[samples], debiased=debiased)
            result[f"{name}/{samples}{suffix}"] = values
    chosen = f"{name}/{job.samples}{'_debiased' if job.debiased else ''}"
    return {name: result[chosen]} | result
