r"""Edits the singular structure of a post-trained checkpoint and writes the result.

Every chosen linear layer of the post model is rebuilt from its own singular values and vectors
and those of the base model, by one of the constructions of the paper (arXiv 2509.17866):

    eq9   replaced singular values   U_post (alpha' S_base) V_post^T
    eq14  the same, alpha' = 1       U_post S_base V_post^T
    eq10  ablation of V              U_post S_post V_base^T
    eq15  ablation of U              U_base S_post V_post^T
    eq11  restoration of V           U_post S_post (V_base U_base^T U_post)^T
    eq16  restoration of U           (U_base V_base^T V_post) S_post V_post^T
    eq12  eq11 with --other, another post model, in the place of base (which is only checked)

or, with --control, that construction's control, which edits the same matrices: noise moves each of
them exactly as far from W_post in a random direction, interpolated as far straight towards base,
reverted puts base's own in (docs/mathematics.md, 5);

or, of --base alone, one of the initialisations that its appendix F suggests:

    lora    LoRA factors from --rank singular components (--components=top, middle, bottom or the
            first one's number) as a PEFT adapter in OUT/adapter, the residual as its base in OUT
    scaled  W times --factor: o_proj by 1.4, or a factor for every layer

The result is a Hugging Face directory in the layout and dtype of the post model, which
transformers and vLLM load: all other tensors bit for bit, tokenizer and licence copied, a model
card that says what was done, how much changed, and how much of post-training's change is left.

    svdjax construct --base=DIR --post=DIR --construction=eq9 --out=DIR
    svdjax construct --base=DIR --post=DIR --construction=eq11 \
        --modules=self_attn --out=DIR
    svdjax construct --base=DIR --post=DIR --construction=eq10 \
        --modules=mlp --signs=aligned --layers=0-3 --dtype=float32 --out=DIR
    svdjax construct --base=DIR --post=DIR --construction=eq11 \
        --modules=self_attn --control=noise --seed=1 --out=DIR
    svdjax construct --base=DIR --construction=lora \
        --rank=16 --components=middle --out=DIR

Memory is bounded by --group_bytes, not by the model. A command that was interrupted goes on when
it is given again; until it is done there is no directory of the name --out, and a finished one does
nothing. Exit status: 0 done, 2 the input cannot be used (one line on stderr says why), 130 or 143
stopped on request, 1 a fault of svdjax.
"""

from __future__ import annotations

from absl import flags

from svdjax import cli
from svdjax.construct.job import INITIALISATIONS, ConstructJob, InitialiseJob
from svdjax.construct.recipes import RECIPES
from svdjax.engine.process import open_jax, prepare_process
from svdjax.engine.signals import StopRequest
from svdjax.errors import InputError
from svdjax.fields import Flags

_FLAGS = Flags(ConstructJob, InitialiseJob, choices={"construction": (*RECIPES, *INITIALISATIONS)})

_DRY_RUN = cli.define_common()


def main() -> str:
    """Carries out the construction that the flags ask for; returns the summary for stdout."""
    with StopRequest() as stop:
        name = _FLAGS.values(ConstructJob)["construction"]
        single = name in INITIALISATIONS
        kind = InitialiseJob if single else ConstructJob
        if idle := _FLAGS.idle(kind):
            raise InputError(
                f"--{', --'.join(idle)}: --construction={name} does not look at it; "
                + ("it edits --base alone" if single else "it belongs to lora and scaled")
            )
        job = kind(**_FLAGS.values(kind))
        prepare_process()
        # jax is loaded from here on, after all that flags alone can be wrong about.
        open_jax()
        from svdjax.construct.checkpoint import dry_run_construct, run_construct

        if _DRY_RUN.value:
            return dry_run_construct(job, stop)
        return run_construct(job, stop=stop).summary()


if __name__ == "__main__":
    flags.mark_flags_as_required(["base", "construction", "out"])
    cli.run(main, instead="checkpoints are given by --base=DIR --post=DIR, the result by --out=DIR")
