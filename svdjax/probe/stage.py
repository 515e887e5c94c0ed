"""The probes stage: every model of every pair reads the same prompts.

What a model showed is journaled by what determines it, so that a checkpoint which several pairs
share reads once, and a sweep that was killed redoes the model in flight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from svdjax.atomic import read_npz, write_npz
from svdjax.checkpoint import digest_of
from svdjax.construct.variant_builder import VariantBuilder, kept_builder
from svdjax.engine.context import Context
from svdjax.engine.inputs import PairJob
from svdjax.engine.progress import note
from svdjax.evaluate.inputs import EvalInputs
from svdjax.evaluate.targets import TargetModel, target_models
from svdjax.model import decoder_mesh
from svdjax.probe.measure import Probes, Shown, probed
from svdjax.probe.results import ProbeResults
from svdjax.spectra.results import Comparison

_JOURNAL = ".probes"
# Fig. 4a shows post and replaced; maps of every variant would fill the disk.
_MAPPED = ("post", "base", "replaced", "restoration_V_SA", "ablation_V_SA")


def run_probes(
    jobs: Sequence[PairJob],
    comparisons: Mapping[str, Comparison],
    material: EvalInputs,
    stage: Context,
) -> dict[str, ProbeResults]:
    """Probes the models of every pair; CKA is that with post.

    Args:
      jobs: the validated pairs.
      comparisons: their analyses, which constructed models need.
      material: the prompts.
      stage: see there.

    Returns:
      The results by pair, in the order of `jobs`.
    """
    builder = kept_builder(stage)
    decoder, how = stage.settings.decoder, stage.settings.probes
    mesh = decoder_mesh(stage.settings.devices, decoder.tensor_parallel)
    with stage.journal(_JOURNAL) as journal:

        def shown(pair: str, one: TargetModel, count: str, positions: int) -> Shown:
            mapped = one.name in _MAPPED
            about = [one.weights, one.reader.prompts, positions, mapped, asdict(decoder)]
            path = journal / f"{digest_of(about)}.npz"
            with contextlib.suppress(OSError, ValueError, KeyError):
                kept = Shown.from_arrays(read_npz(path))
                note(f"probed {count} {pair} {one.name} already")
                return kept
            found = probed(
                f"{count} {pair} {one.name}",
                one.load(),
                one.reader.config,
                one.reader.prompts,
                mesh=mesh,
                positions=positions,
                maps=mapped,
                dtype=decoder.dtype,
                check=stage.check,
            )
            write_npz(path, found.arrays())
            return found

        def make(job: PairJob) -> ProbeResults:
            name = job.spec.name
            models = target_models(
                VariantBuilder(job, comparisons[name], builder, stage), material, stage
            )
            readers = material.readers[name].values()
            positions = min(len(prompt) for reader in readers for prompt in reader.prompts)
            probes = Probes(how.kind)
            for number, one in enumerate(models, 1):
                stage.check(f"probes of {name}: {number - 1} of {len(models)} done")
                probes.add(one.name, shown(name, one, f"{number}/{len(models)}", positions))
            notes = [reader.note for reader in readers if reader.note]
            results = ProbeResults(
                pair=name,
                prompts=how.prompts,
                count=len(material.prompts),
                positions=positions,
                settings=asdict(how) | {k: v for k, v in asdict(decoder).items() if k != "devices"},
                titles={one.name: one.title for one in models},
                entropy=probes.entropy,
                cka=probes.cka,
                maps=probes.maps,
                notes=list(dict.fromkeys(notes)),
            )
            results.save(stage.workdir / name)
            return results

        return stage.pair_by_pair(jobs, ProbeResults.load, make)
