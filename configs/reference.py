"""The reference family that ships with svdjax: needs no argument and no network.

Six small models trained by this project (see svdjax/reference/README.md): `base`, `base_prime`
(pre-trained apart from it), `instruct` and `reasoning` (both fine-tuned from `base`), `rl` and
`rejection` (both trained on sampled answers, after a warm-up of `base`).

    python -m svdjax.sweep --config=configs/reference.py:quick
    python -m svdjax.sweep --config=configs/reference.py

The two post models stay far below the unrelated level of NF, `base_prime` lies at it. Of `instruct`
and `reasoning` all constructed models are made too, beside controls of the same size, judged on
held-out answers in the model's own format, probed on held-out questions (of every pair base is also
linearised towards post), and asked them (of the controls, those of restorations): by the paper's
protocol all 450, three times, which takes well over an hour on two cores (models that collapsed
talk on up to the end of their context), and scaled layer by layer at 145 points a model, four
minutes more. What that gave: docs/reference_results.md.

quick takes about two minutes, half of them compiling: it leaves out `rl` and `rejection`, edits
`instruct` alone, asks 30 questions once, for at most 160 tokens, and scales at 17 points.
"""

from svdjax import reference
from svdjax.options import default_config, parse_argument

PAIRS = (
    ("base", "base_prime"),
    ("base", "instruct"),
    ("base", "reasoning"),
    ("instruct", "reasoning"),
)
SAMPLED = (("base", "rl"), ("base", "rejection"))
TEMPERED = {
    "quick": {
        **{"factors": (0.7, 1.4), "projections": ("qk", "o_proj"), "most_layers": 3},
        **{"texts": 4, "prompts": 8, "questions": 5},
    },
    "full": {"texts": 0, "prompts": 30, "questions": 50},
}
OTHERS = {"instruct": "reasoning", "reasoning": "instruct"}


def get_config(argument=None):
    """Every pair of the family that the paper compares."""
    quick = "quick" in parse_argument(argument, words=("quick",))
    pairs = {}
    for base, post in PAIRS if quick else (*PAIRS, *SAMPLED):
        sides = {"base": str(reference.path(base)), "post": str(reference.path(post))}
        constructed = base == "base" and post in (("instruct",) if quick else OTHERS)
        if constructed:
            sides["other"] = str(reference.path(OTHERS[post]))
            sides["text"] = str(reference.text_path(post))
        pairs[f"{base}-{post}"] = sides | {"constructed": constructed}
    questions = str(reference.heldout_path())
    asked = {"limit": 30, "repeats": 1, "max_new_tokens": 160, "batch_size": 30} if quick else {}
    return default_config(
        "reference-quick" if quick else "reference",
        pairs,
        stages=(
            "spectra",
            "nulls",
            "constructions",
            "probes",
            "evaluation",
            "temperature",
            "report",
        ),
        measure="all",
        benchmarks={"questions": questions},
        probes={"prompts": questions, **({"limit": 30} if quick else {"linearised": True})},
        nulls={"layers": 2} if quick else {"draws": 99, "layers": 0},
        evaluation=asked,
        report={"figures": "none" if quick else "png"},
        temperature=TEMPERED["quick" if quick else "full"],
    )
