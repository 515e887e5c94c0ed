"""The leaves of a sweep's config, and how a config file reads its argument.

Config files import this module and `ml_collections`, nothing else: ``--help`` and flag errors
answer before jax is loaded. Structure goes in the argument after the colon, leaves are set with
``--config.leaf=value``.
"""

from __future__ import annotations

import difflib
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from svdjax.errors import InputError

OPTIONS: Mapping[str, tuple[Any, str]] = {
    "factorisation": (
        "auto",
        "How matrices are factorised, always with an error estimate. auto: by Gram matrices in "
        "double precision, and where their estimate is above 1e-5 by SVDs in double precision. "
        "svd_f64: by those alone, about half as fast. svd_f32: by SVDs in single precision. "
        "gram_f64: what auto takes.",
    ),
    "measure": (
        "fits",
        "vectors: singular values and vectors (SVSM, NF, similarity). fits: also how well eq. 8 "
        "fits with pure scaling, with Q1 or Q2, and at best. all: every fit of eq. 8 and the "
        "residual rotations of eq. 13, which take about twice as long in all.",
    ),
    "corner": (25, "Leading singular directions whose similarity matrices are kept and drawn."),
    "split_fused": (
        False,
        "Split fused projections (phi3's qkv_proj and gate_up_proj) into their parts. "
        "The paper keeps them fused.",
    ),
    "group_bytes": (
        64 * 2**20,
        "Host bytes of one group of layers, both checkpoints as stored; at least a layer for each "
        "device. Smaller groups use less memory and lose less work when a sweep is killed.",
    ),
    "devices": (0, "Devices to spread the layers over; 0 takes all."),
    "full_hash": (
        False,
        "Fingerprint the input files by every byte instead of by header and sampled blocks.",
    ),
    "variants": (
        ("all",),
        "Which constructed models the constructions stage makes: all, or names such as replaced, "
        "restoration_V_SA, ablation_U_FFN_aligned (svdjax/constructions/recipes.py lists them).",
    ),
    "save_variants": (
        False,
        "Also write every constructed model as a checkpoint, to <pair>/models/<variant>.",
    ),
    "text_limit": (0, "Use at most this many of the held-out texts; 0 uses all."),
    "factor_cache": (
        "",
        "Directory that keeps singular vectors for other sweeps of the same checkpoints. Default: "
        "they are kept in the workdir, and removed when the constructions are done.",
    ),
    "factor_cache_bytes": (20 * 2**30, "Most bytes of disk that they may take."),
    "stages": (
        ("spectra", "report"),
        "What to do: spectra, nulls (what random signs of the same change would show), "
        "constructions (of every pair that names no constructed = False; judged on the pair's "
        "held-out text where it names one, beside controls), probes and evaluation (of base, post "
        "and, with constructions, all constructed models), temperature (scales singular values "
        "layer by layer), report.",
    ),
    "constructions.controls": (
        ("noise", "interpolated", "reverted"),
        "Controls made beside every constructed model and judged on the same text: noise moves "
        "each matrix as far in a random direction, interpolated as far straight towards base, "
        "reverted puts base's own modules in. () makes none.",
    ),
    "constructions.asked": (
        ("restoration",),
        "Kinds of constructions whose controls the evaluation stage asks too: replaced, "
        "restoration, ablation. Each variant brings up to two more models to ask, each module one; "
        "() asks none.",
    ),
    "constructions.seed": (0, "Of the noise."),
    "nulls.draws": (
        19,
        "Draws of each kind for a sampled matrix: the change with random signs, which judges NF "
        "and scaling, and in random directions, which tell where it lies. With fewer than 19 "
        "nothing is judged; 0 draws none: formulas for random directions only.",
    ),
    "nulls.layers": (
        3,
        "Most layers of each projection that are sampled, which bounds the cost: those where no "
        "formula holds first, evenly spread. 0 samples all.",
    ),
    "nulls.seed": (0, "Of the draws."),
    "probes.prompts": (
        "",
        "Prompts of the probes stage: a .jsonl with prompt or question in every line, or text, a "
        "prompt a line.",
    ),
    "probes.limit": (100, "Take the first prompts only, as many as the paper's; 0 takes all."),
    "probes.samples": (
        "prompt",
        "Which CKA is reported: a sample is a prompt (our choice), or a position (eq. 17).",
    ),
    "probes.debiased": (False, "Report the debiased CKA; the paper's is biased."),
    "benchmarks.gsm8k": ("", "GSM8K for the evaluation stage: its file, folder or hf:org/name."),
    "benchmarks.math500": ("", "MATH-500, likewise."),
    "benchmarks.mmlu": ("", "MMLU, likewise; evaluation.split says which part."),
    "benchmarks.gpqa": ("", "GPQA, likewise."),
    "benchmarks.commonsenseqa": ("", "CommonsenseQA, likewise."),
    "benchmarks.questions": ("", "Questions of your own, a .jsonl of question and answer."),
    "evaluation.limit": (0, "Take the first questions of each benchmark only; 0 takes all."),
    "evaluation.repeats": (
        0,
        "How often to ask each question; 0: three times as in the paper, or once if greedy.",
    ),
    "evaluation.temperature": (0.2, "0 takes the likeliest token."),
    "evaluation.top_p": (0.95, "Draw from the likeliest tokens that make up this probability."),
    "evaluation.max_new_tokens": (
        1024,
        "Most tokens of a response; fewer where the model's context ends before.",
    ),
    "evaluation.batch_size": (32, "Sequences decoded together."),
    "evaluation.seed": (0, "Of the random draws, and of the order of the options in GPQA."),
    "evaluation.split": ("dev", "Which part of MMLU: dev, test or val."),
    "temperature.factors": (
        (0.5, 0.7, 0.8, 0.9, 1.1, 1.2, 1.4, 2.0),
        "What singular values are multiplied by in the temperature stage; q and k by a make "
        "attention's temperature 1/a^2. 1, the model as it is, is always measured.",
    ),
    "temperature.projections": (
        ("qk", "v_proj", "o_proj"),
        "What is scaled together: a projection such as o_proj, qk (q_proj and k_proj), self_attn, "
        "mlp, all.",
    ),
    "temperature.layers": (
        "",
        "Layers that are scaled one at a time, such as 0-3,20-; empty is each of them, none is "
        "none. All layers together are scaled in any case.",
    ),
    "temperature.most_layers": (0, "At most this many of them, spread evenly; 0 takes all."),
    "temperature.models": (("post",), "Whose singular values are scaled: post, base or both."),
    "temperature.texts": (
        32,
        "Loss and KL are those of the first texts of the pair's held-out text; 0 takes all.",
    ),
    "temperature.prompts": (
        16,
        "Attention entropy is that on the first of probes.prompts; 0 takes all.",
    ),
    "temperature.questions": (
        0,
        "Ask the first questions of each of the benchmarks, greedily; 0 asks none.",
    ),
    "temperature.ask_layers": (
        False,
        "Ask also where one layer is scaled, not only where all are.",
    ),
    "decoder.system": (
        None,
        "A system prompt for probes and evaluation in the place of the paper's; empty for none.",
    ),
    "decoder.prompt_format": (
        "chat",
        "chat: each model's chat template, for a base without one that of post. plain: system "
        "prompt, question and an empty line.",
    ),
    "decoder.dtype": ("float32", "float32 or bfloat16, of weights and computation."),
    "decoder.tensor_parallel": (1, "How many devices hold a model together."),
}
"""Every leaf but `name` and `pairs`, those of sections with a dot: default value, what it does."""


SIDES: Mapping[str, Any] = {"paper": "", "other": "", "text": "", "constructed": True}
"""What a pair may have beside base and post, and its default."""


def default_config(
    name: str,
    pairs: Mapping[str, Mapping[str, Any]],
    *,
    trajectory: Iterable[str] = (),
    **leaves: Any,
) -> ConfigDict:
    """Builds a locked sweep config.

    Args:
      name: name of the config; the default workdir is ``runs/<name>``.
      pairs: pair name to ``{"base": …, "post": …}`` and what else `SIDES` knows. Base and post are
        directories or hub ids (``org/name`` or ``org/name@revision``). ``paper`` names the column
        of the paper's tables 3 and 4 to print beside the measurement, as
        ``"Qwen2.5-Math-1.5B/instruct"``. The constructions stage makes models of every pair
        whose ``constructed`` is not False, restores from ``other``, another post model, in eq. 12,
        and judges them on ``text``, a file of held-out text (svdjax/behaviour/texts.py says in
        which form).
      trajectory: labels of the points in order, where the pairs are those of a trajectory
        (`svdjax.series`); the report then shows curves over them.
      **leaves: other defaults for leaves of `OPTIONS`; for those of a section, a mapping under its
        name.

    Returns:
      A locked `ConfigDict` with `name`, `pairs` and every leaf of `OPTIONS`.
    """
    config = ConfigDict()
    for leaf, (default, _) in OPTIONS.items():
        section, _, key = leaf.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        home: Any = config[section] if section else config
        value = (leaves.get(section, {}) if section else leaves).get(key, default)
        # A leaf without a value needs a type, so that flags can set it.
        home[key] = config_dict.placeholder(str) if value is None else value
    config.name = name
    config.pairs = ConfigDict()
    for pair, sides in pairs.items():
        config.pairs[pair] = ConfigDict(
            {"base": sides["base"], "post": sides["post"]}
            | {key: sides.get(key, default) for key, default in SIDES.items()}
        )
    if trajectory := tuple(trajectory):
        config.trajectory = trajectory
    return config.lock()


def parse_argument(
    argument: str | None, known: Iterable[str] = (), words: Iterable[str] = ()
) -> dict[str, str]:
    """Reads the part of ``--config=file.py:key=value,…`` after the colon.

    The text is split at commas that are followed by a known ``key=``, then at the first ``=``; so
    values may hold commas, colons and equals signs, but not what looks like a misspelt key. ``~``
    is expanded in values.

    Args:
      argument: the text after the colon, or None when there is none.
      known: the keys this config understands.
      words: arguments it understands by themselves, without a value.

    Returns:
      The given keys with their values, a word with "".

    Raises:
      InputError: an unknown key, a key without value, or a key given twice.
    """
    known, words = tuple(known), tuple(words)
    if not argument:
        return {}
    if argument in words:
        return {argument: ""}
    if known:
        keys = "|".join(re.escape(key) for key in known)
        pieces = re.split(rf",(?=(?:{keys})=)", argument)
    else:
        pieces = [argument]
    values: dict[str, str] = {}
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if key in words:
            raise InputError(f"config argument {key!r} takes no value: write {key} alone")
        if key not in known:
            raise InputError(_unknown_key(key, known + words))
        if not equals or not value:
            raise InputError(f"config argument {key!r} has no value: write {key}=VALUE")
        if key in values:
            raise InputError(f"config argument {key!r} is given twice: in {argument!r}")
        for inside in re.findall(r",(\w+)=", value):
            if difflib.get_close_matches(inside, known, n=1):
                raise InputError(_unknown_key(inside, known))
        values[key] = _expanded(key, value) if value.startswith("~") else value
    return values


def _expanded(key: str, value: str) -> str:
    try:
        return str(pathlib.Path(value).expanduser())
    except RuntimeError as error:
        raise InputError(
            f"config argument {key}={value}: there is no such home directory"
        ) from error


def _unknown_key(key: str, known: tuple[str, ...]) -> str:
    if not known:
        return f"this config takes no argument, found {key!r}; set leaves with --config.leaf=value"
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown config argument {key!r}; {hint}"
