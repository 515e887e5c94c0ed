"""Analysis of one pair in memory: the sweep's own path without its files."""

from __future__ import annotations

import os
from typing import Any

from svdjax.checkpoint.hub import Streaming
from svdjax.engine import devices as machine
from svdjax.engine import inputs
from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.groups import total_work, working_bytes
from svdjax.engine.inputs import PairJob
from svdjax.engine.pairs import PairSpec
from svdjax.engine.progress import Progress
from svdjax.errors import InputError
from svdjax.spectra.arrays import matrices_job, params_job
from svdjax.spectra.compute import compute_groups
from svdjax.spectra.factor_cache import FactorCache
from svdjax.spectra.plan import plan_spectra
from svdjax.spectra.results import Comparison, ProjectionResult
from svdjax.spectra.stage import make_comparison
from svdjax.spectral import get_factorisation
from svdjax.sweep.config import Settings


def compare(
    base: str | os.PathLike[str],
    post: str | os.PathLike[str],
    *,
    factorisation: str = "auto",
    measure: str = "fits",
    corner: int = 25,
    split_fused: bool = False,
    experts: int | str = "all",
    devices: int = 0,
    group_bytes: int = Settings.group_bytes,
    progress: bool = False,
    stream: bool = False,
) -> Comparison:
    """Analysis of a pair: how the linear layers of `post` differ from those of `base`.

    Example:
        >>> import svdjax
        >>> result = svdjax.compare("Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-Math-1.5B-Instruct")
        >>> result["q_proj"].alpha_mean, result["q_proj"].nf

    Args:
        base: Directory of a Hugging Face checkpoint, or hub id (``org/name[@revision]``).
        post: Directory or hub id of the post-trained checkpoint.
        factorisation: ``auto``, ``svd_f64`` or ``svd_f32``; `svdjax.options.OPTIONS` explains them.
        measure: ``vectors``, ``fits`` or ``all``; explained there too.
        corner: Number of leading singular directions whose similarity matrices are kept.
        split_fused: Whether to split fused projections (phi3) into their parts.
        experts: ``all``, or how many experts of each layer of a mixture of experts are analysed.
        devices: Number of devices to spread the layers over, 0 for all.
        group_bytes: Host bytes of one group of layers, both matrices as stored.
        progress: Whether to log lines and a bar on stderr.
        stream: Whether the weights of hub ids are fetched as they are read, not downloaded.

    Returns:
        The results as numpy arrays in small dataclasses; nothing is written.

    Raises:
        InputError: The two cannot be compared; the message says everything that is wrong.
    """
    settings = _settings(
        factorisation=factorisation,
        measure=measure,
        corner=corner,
        split_fused=split_fused,
        experts=str(experts),
        devices=devices,
        group_bytes=group_bytes,
    )
    spec = PairSpec("pair", os.fspath(base), os.fspath(post))
    streaming = Streaming() if stream else None
    (job,) = inputs.open_pairs(
        [spec], split_fused=split_fused, experts=settings.expert_count, streaming=streaming
    )
    return _compare(job, settings, progress)


def compare_params(base: Any, post: Any, *, progress: bool = False, **options: Any) -> Comparison:
    """The same analysis of two pytrees of arrays, such as the parameters of a Flax model.

    Leaves [in, out] are compared, stacks [layers, in, out], and [layers, experts, in, out] where
    "expert" is in the path; of others the result's `coverage` says why not. A projection is called
    by its path, without a last ``kernel``; leaves whose paths differ in the number of a layer are
    one, ``layers_*/mlp/up``.

    Args:
        base: Nested dicts, a Flax state or any other pytree of numpy or jax arrays.
        post: The same of the post-trained model.
        progress: Whether to log lines and a bar on stderr.
        **options: factorisation, measure, corner, devices and group_bytes of `compare`.

    Raises:
        InputError: They have no matrix of the same path and shape, or one holds NaN or Inf.
    """
    return _compare(params_job(base, post), _settings(**options), progress)


def compare_matrices(w_base: Any, w_post: Any, **options: Any) -> ProjectionResult:
    """The same analysis of two matrices [in, out], or of two stacks of them [layers, in, out].

    Args:
        w_base: Numpy or jax array.
        w_post: The same after post-training.
        **options: As of `compare_params`.

    Returns:
        One projection, ``matrix``; its arrays have a leading axis of layers, of length 1 for two
        matrices.

    Raises:
        InputError: Their shapes differ, or one holds NaN or Inf.
    """
    return _compare(matrices_job(w_base, w_post), _settings(**options))["matrix"]


def _settings(**options: Any) -> Settings:
    settings = Settings(**options)
    if faults := settings.faults():
        raise InputError(" | ".join(faults))
    get_factorisation(settings.factorisation)
    return settings


def _compare(job: PairJob, settings: Settings, progress: bool = False) -> Comparison:
    inputs.check_values([job])
    mesh = machine.layer_mesh(settings.devices, working_bytes([job.plan]))
    plan = plan_spectra([job], settings, mesh.size)
    shown, pieces = Progress("spectra"), []
    if progress:
        shown.begin("spectra", len(plan.groups), total_work(plan.groups))
    try:
        with CompileQueue() as compile_queue:
            stream = compute_groups(
                plan,
                [plan.groups],
                mesh,
                compile_queue=compile_queue,
                cache=FactorCache(settings, sources=plan.shared),
            )
            for piece in stream:
                if progress:
                    shown.computed(piece.group, piece.seconds, piece.group.projection.shape)
                pieces.append(piece)
    finally:
        shown.close()
    return make_comparison(job, settings, pieces)
