"""Edits the singular structure of a post-trained checkpoint and writes the result.

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

    python -m svdjax.construct --base=DIR --post=DIR --construction=eq9 --out=DIR
    python -m svdjax.construct --base=DIR --post=DIR --construction=eq11 \\
        --modules=self_attn --out=DIR
    python -m svdjax.construct --base=DIR --post=DIR --construction=eq10 \\
        --modules=mlp --signs=aligned --layers=0-3 --dtype=float32 --out=DIR
    python -m svdjax.construct --base=DIR --post=DIR --construction=eq11 \\
        --modules=self_attn --control=noise --seed=1 --out=DIR
    python -m svdjax.construct --base=DIR --construction=lora \\
        --rank=16 --components=middle --out=DIR

Memory is bounded by --group_bytes, not by the model. A command that was interrupted goes on when
it is given again; until it is done there is no directory of the name --out. Exit status: 0 done, 2
the input cannot be used (one line on stderr says why), 130 or 143 stopped on request, 1 a fault of
svdjax.
"""

from __future__ import annotations

from typing import Any

from absl import flags

from svdjax import door
from svdjax.constructions.controls import CONTROLS
from svdjax.constructions.recipes import RECIPES, SIGNS
from svdjax.engine.editing.construct_job import DTYPES, ConstructJob
from svdjax.engine.editing.initialise_job import INITIALISATIONS, InitialiseJob
from svdjax.engine.process import prepare_process
from svdjax.engine.stop import StopRequest
from svdjax.errors import InputError

_BASE = flags.DEFINE_string("base", None, "Base model: a directory, or a hub id org/name[@rev].")
_POST = flags.DEFINE_string(
    "post", None, "Post-trained model that is edited: a directory or hub id."
)
_OTHER = flags.DEFINE_string(
    "other", "", "Another post model of the same base, for eq12: directory or hub id."
)
_CONSTRUCTION = flags.DEFINE_enum(
    "construction",
    None,
    [*RECIPES, *INITIALISATIONS],
    "Which construction; the list above has the formulas.",
)
_MODULES = flags.DEFINE_string(
    "modules",
    "",
    "Which linear layers: self_attn, mlp, all, a projection such as o_proj, or a regular "
    "expression that is searched for in names like self_attn.q_proj. Defaults to all for eq9 and "
    "eq14, as in the paper, and for lora, to o_proj for scaled; must be named for the others, "
    "which the paper applies to attention or to the MLP.",
)
_LAYERS = flags.DEFINE_string(
    "layers", "", "Which layers, counted from 0: 0-3,7,20- for example. Default: all."
)
_ALPHA = flags.DEFINE_string(
    "alpha",
    "auto",
    "alpha' of eq9: auto (mean scaling of the top 90 % of the singular values over all layers, "
    "rounded to one decimal, as in the paper's Table 4), auto_raw (not rounded), a number, or a "
    'JSON file {"q_proj": 0.9, ...}.',
)
_SIGNS = flags.DEFINE_enum(
    "signs",
    "raw",
    list(SIGNS),
    "eq10 and eq15 depend on the common sign of each pair of singular vectors, which is arbitrary: "
    "raw takes what the factorisation returned (as the paper does), aligned turns each pair of "
    "post towards its partner.",
)
_DTYPE = flags.DEFINE_enum(
    "dtype",
    None,
    list(DTYPES),
    "Storage dtype of the result; default: that of the edited model, for lora float32.",
)
_CONTROL = flags.DEFINE_enum(
    "control",
    None,
    list(CONTROLS),
    "Write this control of the construction instead of the construction itself. interpolated is "
    "base where base is nearer to W_post than the construction.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Of --control=noise.")
_RANK = flags.DEFINE_integer("rank", 0, "lora: how many singular components to take out.")
_COMPONENTS = flags.DEFINE_string(
    "components",
    "top",
    "lora: which ones: top, middle, bottom, or the number of the first, from 0.",
)
_FACTOR = flags.DEFINE_string(
    "factor",
    "",
    'scaled: a number, or a JSON file {"o_proj": 1.4, "q_proj": [1.0, 1.1, ...]} with a number, or '
    "one for each layer of the model.",
)
_OUT = flags.DEFINE_string("out", None, "Directory to write.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace a checkpoint that is there already.")
_FACTORISATION = flags.DEFINE_enum(
    "factorisation",
    "auto",
    ["auto", "svd_f64", "svd_f32", "gram_f64"],
    "How matrices are factorised: auto takes svd_f64, and for eqs. 11, 12 and 16, which need polar "
    "factors only, the quicker gram_f64 (with svd_f64 where its error would show).",
)
_GROUP_BYTES = flags.DEFINE_integer(
    "group_bytes",
    ConstructJob.group_bytes,
    "Host bytes of one group of layers, both checkpoints as stored. Peak memory is about four of "
    "these, what one matrix pair in work takes on each CPU device, and 0.5 GB.",
)
_DEVICES = flags.DEFINE_integer("devices", 0, "Devices to spread the layers over; 0 takes all.")
_CACHE = flags.DEFINE_string(
    "factor_cache",
    "",
    "Directory in which factors are kept and looked up, for several constructions of the same "
    "checkpoints. Default: none are kept.",
)
_CACHE_BYTES = flags.DEFINE_integer(
    "factor_cache_bytes", ConstructJob.factor_cache_bytes, "Most bytes that --factor_cache holds."
)


def main() -> str:
    """Carries out the construction that the flags ask for; returns the summary for stdout."""
    with StopRequest() as stop:
        shared: dict[str, Any] = {
            "base": _BASE.value or "",
            "out": _OUT.value or "",
            "construction": _CONSTRUCTION.value or "",
            "modules": _MODULES.value,
            "layers": _LAYERS.value,
            "dtype": _DTYPE.value or "",
            "overwrite": _OVERWRITE.value,
            "group_bytes": _GROUP_BYTES.value,
            "devices": _DEVICES.value,
        }
        _refuse_idle()
        if _CONSTRUCTION.value in INITIALISATIONS:
            single = InitialiseJob(
                rank=_RANK.value, components=_COMPONENTS.value, factor=_FACTOR.value, **shared
            )
            prepare_process()
            # jax is loaded from here on, after all that flags alone can be wrong about.
            from svdjax.engine import run_initialise

            return run_initialise(single, stop=stop)
        job = ConstructJob(
            post=_POST.value or "",
            other=_OTHER.value,
            alpha=_ALPHA.value,
            signs=_SIGNS.value,
            factorisation=_FACTORISATION.value,
            factor_cache=_CACHE.value,
            factor_cache_bytes=_CACHE_BYTES.value,
            control=_CONTROL.value or "",
            seed=_SEED.value,
            **shared,
        )
        prepare_process()
        from svdjax.engine import run_construct

        return run_construct(job, stop=stop).summary()


def _refuse_idle() -> None:
    """Raises `InputError` for flags that the construction would not look at."""
    single = _CONSTRUCTION.value in INITIALISATIONS
    pair = (_POST, _OTHER, _ALPHA, _SIGNS, _FACTORISATION, _CACHE, _CACHE_BYTES, _CONTROL, _SEED)
    idle = [
        flag.name for flag in (pair if single else (_RANK, _COMPONENTS, _FACTOR)) if flag.present
    ]
    if idle:
        raise InputError(
            f"--{', --'.join(idle)}: --construction={_CONSTRUCTION.value} does not look at it; "
            + ("it edits --base alone" if single else "it belongs to lora and scaled")
        )


if __name__ == "__main__":
    flags.mark_flags_as_required(["base", "construction", "out"])
    door.run(main)
