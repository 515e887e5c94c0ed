"""The initialisations of appendix F as checkpoints, group by group: read, split or scale, write.

Axis legend: `L` layers, `I` in, `O` out, `K` rank of what is taken out.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time

import jax
import numpy as np

import svdjax
from svdjax.atomic import read_npz, write_npz
from svdjax.checkpoint import input_digest, model_config, open_checkpoint, plan_pair
from svdjax.checkpoint.adapter import save_adapter
from svdjax.checkpoint.matching import ranges
from svdjax.checkpoint.mirror import CheckpointRewrite
from svdjax.checkpoint.writer import with_dtype
from svdjax.construct.initialise_job import INITIALISATIONS, InitialiseJob, mapped
from svdjax.construct.low_rank import factors_of
from svdjax.construct.markdown import code, identifier, source_name, table_row
from svdjax.construct.targets import chosen_layers, chosen_projections
from svdjax.engine import devices
from svdjax.engine.groups import Group, plan_groups, total_work, working_bytes
from svdjax.engine.prefetch import prefetch
from svdjax.engine.progress import Progress, note
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError
from svdjax.spectra.compute import padded_stack
from svdjax.spectral import working_precision
from svdjax.spectral.components import split_stack, start_of

_ROUTE = "svd_f64"


def run_initialise(job: InitialiseJob, *, stop: StopRequest | None = None) -> str:
    """Writes (or goes on writing) the checkpoint that `job` asks for; returns a short summary.

    Raises:
      InputError: the checkpoint or the place cannot be used, or the disk is full.
      Interrupted: SIGTERM or SIGINT; the group in flight was finished and journaled.
    """
    if stop is None:
        with StopRequest() as own:
            return run_initialise(job, stop=own)
    start = time.perf_counter()
    path, was_finished = _Initialise(job, stop).run()
    head = "nothing to do: already finished"
    lines = [head if was_finished else f"done in {time.perf_counter() - start:.1f} s"]
    lines.append(f"checkpoint: {path}")
    lines += [f"adapter: {path / 'adapter'}"] * (job.construction == "lora")
    return "\n".join(lines)


class _Initialise:
    """The steps of an initialisation, with what they share."""

    def __init__(self, job: InitialiseJob, stop: StopRequest):
        self.job, self.stop = job, stop
        self.source = open_checkpoint(job.base)
        whole = plan_pair(self.source, self.source)
        if job.construction == "lora" and whole.family == "unknown":
            raise InputError(
                f"{self.source.path}: model_type {self.source.config.get('model_type')!r} has no "
                "name table, so an adapter cannot name its layers; scaled works"
            )
        projections = chosen_projections(whole, job.chosen, job.chosen_layers)
        whole = dataclasses.replace(whole, projections=projections)
        self.layers = chosen_layers(whole, job.chosen_layers)
        self.depth = max(len(one.tensors) for one in projections)
        self.plan = dataclasses.replace(
            whole,
            projections=tuple(
                dataclasses.replace(one, tensors=tuple(one.tensors[n] for n in self.layers))
                if len(one.tensors) > 1
                else one
                for one in projections
            ),
        )
        # Both are said before anything is written.
        self.starts = {
            one.name: start_of(job.components, job.rank, min(one.shape), one.name)
            for one in projections
            if job.construction == "lora"
        }
        self.factors = {
            one.name: factors_of(job.factors, one.name, len(one.tensors))
            for one in projections
            if job.construction == "scaled"
        }
        unknown = [name for name in mapped(job.factors) if name not in self.factors]
        if unknown:
            raise InputError(
                f"--factor={job.factor}: {', '.join(unknown[:8])} is not among the chosen "
                f"{', '.join(self.factors)}"
            )
        self.mesh = devices.layer_mesh(job.devices, working_bytes([self.plan]))
        self.groups = plan_groups(
            job.construction, self.plan, group_bytes=job.group_bytes, devices=self.mesh.size
        )

    def run(self) -> tuple[pathlib.Path, bool]:
        """Where the result is, and whether it was there already."""
        job = self.job
        with CheckpointRewrite(
            self.source,
            job.out,
            replaced=[name for one in self.plan.projections for name in one.tensors],
            identity={
                "construction": job.construction,
                "start": self.starts,
                "rank": job.rank,
                "factors": self.factors,
                "versions": devices.versions(),
                "input": input_digest(self.source),
            },
            dtype=np.dtype(job.stored) if job.stored else None,
            overwrite=job.overwrite,
        ) as mirror:
            if mirror.interrupted:
                note(f"{mirror.target} had been put in its place before the interruption")
            if mirror.finished:
                return mirror.target, True
            for number, file in enumerate(mirror.copy(), 1):
                note(f"laid out {file} ({number}/{len(self.source.files)})")
                self.stop.check("while the files were laid out")
            self._fill(mirror)
            if job.construction == "lora":
                self._adapter(mirror)
            config = {k: v for k, v in self.source.config.items() if k != "auto_map"}
            if job.stored:
                config = with_dtype(config, job.stored)
            return mirror.finish(config, self._card()), False

    def _fill(self, mirror: CheckpointRewrite) -> None:
        groups = self.groups
        names = {group: group.projection.tensors[group.start : group.stop] for group in groups}
        missing = [
            group
            for group in groups
            if not all(name in mirror.written for name in names[group])
            or not (self.job.construction == "scaled" or self._kept(mirror, group).is_file())
        ]
        progress = Progress(len(groups), total_work(groups), stage=self.job.construction)
        try:
            for group in groups:
                if group not in missing:
                    progress.reused(group)
            stream = prefetch(
                missing,
                lambda group: padded_stack(self.source, group),
                lambda: self.stop.check(f"{progress.count} of {progress.groups} groups done"),
            )
            for group, stack in stream:
                began = time.perf_counter()
                new = self._new(mirror, group, stack)
                turned = group.projection.transposed
                values = {
                    name: np.asarray(new[row].T if turned else new[row])
                    for row, name in enumerate(names[group])
                }
                mirror.write(values, dict.fromkeys(values, True))
                progress.computed(group, time.perf_counter() - began)
        finally:
            progress.close()

    def _new(self, mirror: CheckpointRewrite, group: Group, stack: np.ndarray) -> np.ndarray:
        """The new matrices of a group; the factors of LoRA are kept beside the files."""
        name, count = group.projection.name, group.stop - group.start
        if self.job.construction == "scaled":
            numbers = self.layers if len(self.factors[name]) > 1 else (0,)
            factors = self.factors[name][list(numbers)][group.start : group.stop]
            wide = stack[:count].astype(np.promote_types(stack.dtype, np.float32))
            return wide * factors.astype(wide.dtype)[:, None, None]
        with working_precision(_ROUTE):
            split = jax.device_get(
                split_stack(
                    stack,
                    start=self.starts[name],
                    rank=self.job.rank,
                    factorisation=_ROUTE,
                    mesh=self.mesh,
                )
            )
        write_npz(self._kept(mirror, group), {"a": split.a[:count], "b": split.b[:count]})
        return split.residual

    def _kept(self, mirror: CheckpointRewrite, group: Group) -> pathlib.Path:
        number = [one.name for one in self.plan.projections].index(group.projection.name)
        return mirror.folder / f"lora-{number}-{group.start}-{group.stop}.npz"

    def _adapter(self, mirror: CheckpointRewrite) -> None:
        """Joins the kept factors into a PEFT adapter inside the result."""
        factors = {}
        for one in self.plan.projections:
            files = [self._kept(mirror, group) for group in self.groups if group.projection is one]
            parts = [read_npz(file) for file in files]
            path = f"layers/{one.module}/{one.name}/kernel"
            factors[path] = tuple(np.concatenate([p[side] for p in parts]) for side in ("a", "b"))
        save_adapter(
            mirror.data / "adapter",
            factors,
            model_config(self.source.home),
            layers=self.layers,
            base_model=str(mirror.target),
            overwrite=True,
        )

    def _card(self) -> str:
        """The text of README.md."""
        job = self.job
        lora = job.construction == "lora"
        rows = [
            ("initialisation", INITIALISATIONS[job.construction]),
            ("model", code(source_name(job.base))),
            ("modules", ", ".join(identifier(one.name) for one in self.plan.projections)),
            ("layers", ranges(self.layers)),
        ]
        if lora:
            spans = {n: f"{s} to {s + job.rank - 1}" for n, s in self.starts.items()}
            rows += [("rank", str(job.rank))]
            rows += [(f"components of {identifier(name)}", text) for name, text in spans.items()]
        else:
            rows.append(("factor", code(job.factor, 200)))
        front = {"library_name": "transformers", "tags": ["svdjax", job.construction]}
        usage = (
            "With the adapter in `adapter/` it is the original model, to the accuracy of float32 "
            '(`PeftModel.from_pretrained(base, "adapter", is_trainable=True)` from PEFT, with this '
            "directory as base); by itself it is not. adapter_config.json names this directory by "
            "its absolute path: mend it there if the directory is moved. The idea of other "
            "components than the top ones is from appendix F of the paper, the top ones are PiSSA "
            "(arXiv 2404.02948)."
            if lora
            else "Appendix F of the paper suggests o_proj times 1.4 before reasoning training."
        )
        return "\n".join(
            [
                "---",
                *(f"{key}: {json.dumps(value)}" for key, value in front.items()),
                "---",
                "",
                f"# {INITIALISATIONS[job.construction]}",
                "",
                f"Written by svdjax {svdjax.__version__} (method: arXiv 2509.17866). {usage}",
                "",
                "| | |",
                "| --- | --- |",
                *(table_row(row) for row in rows),
                "",
            ]
        )
