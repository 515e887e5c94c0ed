"""A checkpoint rewritten with some of its matrices edited, group by group, whatever the edit is.

Axis legend: `L` layers, `I` in, `O` out.

Peak anonymous host memory, beside what Python and jax take (about 0.4 GB): two groups of
``group_bytes`` as stored, the copy of one that the devices work on and its results; and on CPU
devices a matrix pair in work on each (`cost.matrix_bytes`). It does not depend on the size of
the model.
"""

from __future__ import annotations

import abc
import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from svdjax.checkpoint import PairPlan
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.construct.build import by_tensor
from svdjax.construct.changes import Change
from svdjax.construct.job import EditJob
from svdjax.construct.selection import chosen_projections
from svdjax.engine import devices
from svdjax.engine.groups import Group, plan_groups, total_work, working_bytes
from svdjax.engine.progress import Progress, note, size
from svdjax.engine.signals import StopRequest
from svdjax.engine.store import from_json

Arrays = dict[str, np.ndarray]
Check = Callable[[], None]
Edited = Iterator[tuple[Group, np.ndarray, Sequence[dict[str, Any]], float]]
"""Groups with their new matrices [L, I, O], records of the matrices (JSON-able), seconds."""


@dataclass(frozen=True)
class ConstructOutcome:
    """A finished construction or initialisation.

    Attributes:
        path: The new checkpoint.
        changes: What a construction did, by projection; empty for an initialisation.
        computed: Matrices built by this run.
        reused: Matrices that an interrupted run had left.
        seconds: What this run took.
        was_finished: There was nothing to do.
    """

    path: pathlib.Path
    changes: dict[str, Change]
    computed: int
    reused: int
    seconds: float = 0.0
    was_finished: bool = False

    def summary(self) -> str:
        """A few lines for stdout."""
        head = "nothing to do: already finished" if self.was_finished else "done"
        head += f": {self.computed + self.reused} matrices" * bool(self.changes)
        lines = [head if self.was_finished else f"{head} in {self.seconds:.1f} s"]
        lines += [f"  {name}: {change.line()}" for name, change in self.changes.items()]
        lines.append(f"checkpoint: {self.path}")
        if (adapter := self.path / "adapter").is_dir():
            lines.append(f"adapter: {adapter}")
        return "\n".join(lines)


class Edit(abc.ABC):
    """An edit of the chosen matrices of a checkpoint; a subclass says which.

    Attributes:
        job: The flags.
        stop: Asked between groups and files.
        whole: The chosen projections with all their layers; `post` is the checkpoint that is
            edited.
        plan: The same with the chosen layers only.
        layers: Numbers of the chosen layers.
        mesh: The devices, axis ``layers``.
    """

    def __init__(self, job: EditJob, plan: PairPlan, stop: StopRequest):
        """Selects what is edited.

        Raises:
            InputError: Nothing is chosen, or the model has no such layer.
        """
        self.job, self.stop = job, stop
        projections = chosen_projections(plan, job.chosen)
        self.layers = job.chosen_layers.choose(max(max(each.layers) for each in projections) + 1)
        self.whole = replace(plan, projections=projections)
        chosen = (
            each.of_layers(place for place, layer in enumerate(each.layers) if layer in self.layers)
            for each in projections
        )
        self.plan = replace(plan, projections=tuple(each for each in chosen if each.tensors))
        self.mesh = devices.layer_mesh(job.devices, working_bytes([self.plan]))

    @abc.abstractmethod
    def identity(self) -> dict[str, Any]:
        """Whatever determines the bytes that are written, JSON-able."""

    @abc.abstractmethod
    def build(self, rewrite: CheckpointRewrite, groups: Sequence[Group], check: Check) -> Edited:
        """Edits groups of `plan`, in order; `check` is called between them."""

    @abc.abstractmethod
    def card(self, changes: Mapping[str, Change]) -> str:
        """The text of README.md."""

    def prepare(self, rewrite: CheckpointRewrite) -> None:  # noqa: B027  (most need nothing)
        """Checks and computes what is to be known of all matrices before one is written."""

    def is_done(self, rewrite: CheckpointRewrite, group: Group) -> bool:
        """Whether an interrupted run has left all that `build` makes of a group."""
        return all(name in rewrite.written for name in group.tensors)

    def complete(self, rewrite: CheckpointRewrite) -> dict[str, Change]:
        """Adds to the result what is made of all groups; returns what was done, by projection."""
        return {}

    def dry_run(self) -> str:
        """What `run` would read, hold and write."""
        job, groups = self.job, self.groups(self.plan)
        lines = [f"dry run of {job.construction}: nothing is written"]
        for each in self.plan.projections:
            own = [group for group in groups if group.projection is each]
            lines.append(
                f"  {each.name}: {each.shape[0]}x{each.shape[1]}, {len(each.tensors)} layers in "
                f"{len(own)} group(s), {size(sum(group.read for group in own))} read"
            )
        files = self.plan.post.files
        mesh = ", ".join(devices.describe(self.mesh))
        exists = ", which exists" if pathlib.Path(job.out).expanduser().exists() else ""
        lines += [
            f"at most {size(max(2 * group.bytes for group in groups))} of stacks on the host, and "
            f"{size(working_bytes([self.plan]))} on each of {mesh}",
            f"{len(files)} file(s) and what lies beside them go to {job.out}{exists}",
        ]
        return "\n".join(lines)

    def run(self) -> ConstructOutcome:
        """Writes the checkpoint, or what an interrupted run has left to write."""
        job, source = self.job, self.plan.post
        rewrite = CheckpointRewrite(
            source,
            job.out,
            replaced=[name for each in self.plan.projections for name in each.tensors],
            identity=self.identity(),
            dtype=np.dtype(job.stored) if job.stored else None,
            overwrite=job.overwrite,
        )
        with rewrite:
            if rewrite.interrupted:
                note(f"{rewrite.target} had been put in its place before the interruption")
            if rewrite.finished:
                changes = _read_changes(rewrite.about)
                matrices = sum(change.layers for change in changes.values())
                return ConstructOutcome(rewrite.target, changes, 0, matrices, was_finished=True)
            reused = len(rewrite.written)
            if reused:
                note(f"continuing: {reused} matrices are there already")
            self.prepare(rewrite)
            for number, file in enumerate(rewrite.copy(), 1):
                note(f"laid out {file} ({number}/{len(source.files)})")
                self.stop.check("while the files were laid out")
            self._fill(rewrite)
            changes = self.complete(rewrite)
            about = {name: asdict(change) for name, change in changes.items()}
            path = rewrite.finish(self.card(changes), about or None)
        return ConstructOutcome(path, changes, len(rewrite.written) - reused, reused)

    def groups(self, plan: PairPlan) -> list[Group]:
        """The groups of `whole` or `plan`."""
        return plan_groups(
            self.job.construction,
            plan,
            group_bytes=self.job.group_bytes,
            devices=self.mesh.size,
        )

    def part(self, kind: str, group: Group) -> str:
        """File in which arrays of a group are kept for a job that goes on."""
        names = [each.name for each in self.whole.projections]
        return f"{kind}-{names.index(group.projection.name)}-{group.start}-{group.stop}.npz"

    @contextlib.contextmanager
    def progress(
        self, stage: str, groups: Sequence[Group], missing: Sequence[Group]
    ) -> Iterator[tuple[Progress, Check]]:
        """Tells of groups as they are computed, and what to call between them."""
        with contextlib.closing(Progress(stage)) as progress:
            progress.begin(stage, len(groups), total_work(groups))
            for group in groups:
                if group not in missing:
                    progress.reused(group)
            yield (
                progress,
                lambda: self.stop.check(f"{progress.count} of {progress.total} groups done"),
            )

    def _fill(self, rewrite: CheckpointRewrite) -> None:
        groups = self.groups(self.plan)
        missing = [group for group in groups if not self.is_done(rewrite, group)]
        with self.progress(self.job.construction, groups, missing) as (progress, check):
            for group, w, info, seconds in self.build(rewrite, missing, check):
                rewrite.write(by_tensor(group, w), dict(zip(group.tensors, info, strict=True)))
                progress.computed(group, seconds, group.projection.shape)
                del w


def joined(parts: Mapping[Group, Arrays]) -> dict[str, Arrays]:
    """Arrays of groups, joined along the layers: by projection and name."""
    projections: dict[str, list[Arrays]] = {}
    for group, arrays in parts.items():
        projections.setdefault(group.projection.name, []).append(arrays)
    return {
        projection: {name: np.concatenate([each[name] for each in pieces]) for name in pieces[0]}
        for projection, pieces in projections.items()
    }


def _read_changes(about: Any) -> dict[str, Change]:
    """What the card of an earlier run of the same job says was done."""
    changes = {}
    for name, entry in about.items() if isinstance(about, dict) else ():
        with contextlib.suppress(KeyError, TypeError, ValueError):
            change = from_json(Change, entry)
            if all(isinstance(number, int | float) for number in asdict(change).values()):
                changes[name] = change
    return changes
