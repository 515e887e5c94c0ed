r"""Evaluates a model on a benchmark: pass@1 and output lengths, every response kept.

Questions are put to the model with its own chat template and the system prompts of the paper (arXiv
2509.17866); the answer is the last \boxed{} of the response, compared by math-verify, or the letter
of an option. Defaults are the paper's protocol: temperature 0.2, top-p 0.95, at most 1024 new
tokens, three repeats.

    python -m svdjax.evaluate --model=DIR --benchmark=gsm8k --data=gsm8k/test.jsonl --out=DIR
    python -m svdjax.evaluate --model=org/name --benchmark=mmlu --data=mmlu/ --split=dev --out=DIR
    python -m svdjax.evaluate --model=DIR --benchmark=math500 --data=hf:HuggingFaceH4/MATH-500 \
        --limit=100 --temperature=0 --out=DIR

What --data must be:
{data}

OUT/summary.json holds accuracy and tokens (mean and std over the repeats, accuracy in %),
OUT/responses.jsonl every response with prompt, extracted answer and verdict. A run that was killed
goes on when the same command is given again, and a finished one does nothing. Answers depend on
--seed and the question alone, not on batches. Exit status: 0 done, 2 the input cannot be used (one
line on stderr says why), 130 or 143 stopped on request, 1 a fault of svdjax.
"""

from __future__ import annotations

import textwrap

from absl import flags

from svdjax import door, model_flags
from svdjax.behaviour.benchmarks import BENCHMARKS, SPLITS
from svdjax.engine.behaviour.evaluate_job import EvaluateJob
from svdjax.engine.process import prepare_process
from svdjax.engine.stop import StopRequest

flags.adopt_module_key_flags(model_flags)


def _explained(name: str) -> str:
    """What --data must be for a benchmark, as --help shows it."""
    text = BENCHMARKS[name].replace("--data: ", "")
    return textwrap.fill(text, 96, initial_indent=f"    {name:14}", subsequent_indent=" " * 18)


_MODEL = flags.DEFINE_string("model", None, "Model: a directory, or a hub id org/name[@revision].")
_BENCHMARK = flags.DEFINE_enum(
    "benchmark",
    None,
    list(BENCHMARKS),
    "Which questions; the list above says what --data must be.",
)
_DATA = flags.DEFINE_string(
    "data", None, "The benchmark's official file or folder, or hf:org/name (needs datasets)."
)
_OUT = flags.DEFINE_string("out", None, "Directory for the results.")
_LIMIT = flags.DEFINE_integer("limit", 0, "Take the first questions only; 0 takes all.")
_REPEATS = flags.DEFINE_integer(
    "repeats", 0, "How often to ask each question; 0: three times, or once if greedy."
)
_TEMPERATURE = flags.DEFINE_float(
    "temperature", EvaluateJob.temperature, "0 takes the likeliest token."
)
_TOP_P = flags.DEFINE_float(
    "top_p", EvaluateJob.top_p, "Draw from the likeliest tokens that make up this probability."
)
_NEW = flags.DEFINE_integer(
    "max_new_tokens",
    EvaluateJob.max_new_tokens,
    "Most tokens of a response; fewer where the model's context ends before.",
)
_BATCH = flags.DEFINE_integer("batch_size", EvaluateJob.batch_size, "Sequences decoded together.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Of the random draws, and of the order of the options in GPQA."
)
_SPLIT = flags.DEFINE_enum("split", "dev", list(SPLITS), "Which part of MMLU.")
__doc__ = __doc__.replace("{data}", "\n".join(map(_explained, BENCHMARKS))) if __doc__ else None


def main() -> str:
    """Carries out the evaluation that the flags ask for; returns the summary for stdout."""
    with StopRequest() as stop:
        job = EvaluateJob(
            model=_MODEL.value or "",
            benchmark=_BENCHMARK.value or "",
            data=_DATA.value or "",
            out=_OUT.value or "",
            limit=_LIMIT.value,
            repeats=_REPEATS.value,
            temperature=_TEMPERATURE.value,
            top_p=_TOP_P.value,
            max_new_tokens=_NEW.value,
            batch_size=_BATCH.value,
            seed=_SEED.value,
            split=_SPLIT.value,
            **model_flags.given(),
        )
        prepare_process()
        # jax is loaded from here on, after all that flags alone can be wrong about.
        from svdjax.engine import run_evaluate

        return run_evaluate(job, stop=stop).text()


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "benchmark", "data", "out"])
    door.run(main)
