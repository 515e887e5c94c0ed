"""The probes stage: every model of every pair reads the same prompts.

A model's probe is journaled under the digest of its weights, prompts and settings, so that a
checkpoint which several pairs share reads once, and a killed sweep redoes the model in flight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from svdjax.atomic import read_npz, write_npz
from svdjax.checkpoint import digest_of
from svdjax.construct.variant_builder import VariantBuilder, cached_builder
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import note
from svdjax.evaluate.inputs import EvalInputs
from svdjax.evaluate.targets import TargetModel, target_models
from svdjax.model import decoder_mesh
from svdjax.probe.measure import ModelProbe, Probes, probe_model
from svdjax.probe.results import ProbeResults
from svdjax.spectra.results import Comparison

_JOURNAL = ".probes"
# Fig. 4a shows post and replaced; maps of every variant would fill the disk.
_MAPPED = ("post", "base", "replaced", "restoration_V_SA", "ablation_V_SA")


def run_probes(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    inputs: EvalInputs,
    context: Context,
) -> dict[str, ProbeResults]:
    """Probes the models of every pair; CKA is that with post.

    Args:
        jobs: The validated pairs.
        comparisons: Their analyses, which constructed models need.
        inputs: The prompts.
        context: The sweep's.

    Returns:
        The results by pair, in the order of `jobs`.
    """
    builder = cached_builder(context)
    decoder, options = context.settings.decoder, context.settings.probes
    mesh = decoder_mesh(context.settings.devices, decoder.tensor_parallel)
    with context.journal(_JOURNAL) as journal:

        def probe_once(pair: str, model: TargetModel, count: str, positions: int) -> ModelProbe:
            mapped = model.name in _MAPPED
            key = [model.weights, model.reader.prompts, positions, mapped, asdict(decoder)]
            path = journal / f"{digest_of(key)}.npz"
            with contextlib.suppress(OSError, ValueError, KeyError):
                probe = ModelProbe.from_arrays(read_npz(path))
                note(f"probed {count} {pair} {model.name} already")
                return probe
            probe = probe_model(
                f"{count} {pair} {model.name}",
                model.load(),
                model.reader.config,
                model.reader.prompts,
                mesh=mesh,
                positions=positions,
                maps=mapped,
                dtype=decoder.dtype,
                check=context.check,
            )
            write_npz(path, probe.arrays())
            return probe

        def probe_pair(job: PairJob) -> ProbeResults:
            pair = job.spec.name
            variants = VariantBuilder(job, comparisons[pair], builder, context)
            models = target_models(variants, inputs, context)
            readers = inputs.readers[pair].values()
            positions = min(len(prompt) for reader in readers for prompt in reader.prompts)
            probes = Probes(options.kind)
            for number, model in enumerate(models, 1):
                context.check(f"probes of {pair}: {number - 1} of {len(models)} done")
                count = f"{number}/{len(models)}"
                probes.add(model.name, probe_once(pair, model, count, positions))
            settings = {k: v for k, v in asdict(decoder).items() if k != "devices"}
            results = ProbeResults(
                pair=pair,
                prompts=options.prompts,
                count=len(inputs.prompts),
                positions=positions,
                settings=asdict(options) | settings,
                titles={model.name: model.title for model in models},
                entropy=probes.entropy,
                cka=probes.cka,
                maps=probes.maps,
                notes=list(dict.fromkeys(reader.note for reader in readers if reader.note)),
            )
            results.save(context.workdir / pair)
            return results

        return context.pair_by_pair(jobs, ProbeResults.load, probe_pair)
