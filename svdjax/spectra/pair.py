"""Analysis of one pair in memory: the sweep's own path without its files."""

from __future__ import annotations

import os

from svdjax.engine import devices as machine
from svdjax.engine import inputs
from svdjax.engine.compile_queue import CompileQueue
from svdjax.engine.groups import total_work, working_bytes
from svdjax.engine.pairs import PairSpec
from svdjax.engine.progress import Progress
from svdjax.errors import InputError
from svdjax.spectra.compute import compute_groups
from svdjax.spectra.factor_cache import FactorCache
from svdjax.spectra.plan import plan_spectra
from svdjax.spectra.results import Comparison
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
    devices: int = 0,
    group_bytes: int = Settings.group_bytes,
    progress: bool = False,
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
        devices: Number of devices to spread the layers over, 0 for all.
        group_bytes: Host bytes of one group of layers, both matrices as stored.
        progress: Whether to log lines and a bar on stderr.

    Returns:
        The results as numpy arrays in small dataclasses; nothing is written.

    Raises:
        InputError: The two cannot be compared; the message says everything that is wrong.
    """
    settings = Settings(
        factorisation=factorisation,
        measure=measure,
        corner=corner,
        split_fused=split_fused,
        devices=devices,
        group_bytes=group_bytes,
    )
    if faults := settings.faults():
        raise InputError(" | ".join(faults))
    get_factorisation(factorisation)
    spec = PairSpec("pair", os.fspath(base), os.fspath(post))
    (job,) = inputs.open_pairs([spec], split_fused=split_fused)
    inputs.check_values([job])
    mesh = machine.layer_mesh(devices, working_bytes([job.plan]))
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
                    shown.computed(piece.group, piece.seconds)
                pieces.append(piece)
    finally:
        shown.close()
    return make_comparison(job, settings, pieces)
