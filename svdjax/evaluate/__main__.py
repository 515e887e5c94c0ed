r"""Evaluates a model on a benchmark: pass@1 and output lengths, every response kept.

Questions are put to the model with its own chat template and the system prompts of the paper (arXiv
2509.17866); the answer is the last \boxed{} of the response, compared by math-verify, or the letter
of an option. Defaults are the paper's protocol: temperature 0.2, top-p 0.95, at most 1024 new
tokens, three repeats.

    svdjax evaluate --model=DIR --benchmark=gsm8k --data=gsm8k/test.jsonl --out=DIR
    svdjax evaluate --model=org/name --benchmark=mmlu --data=mmlu/ --split=dev --out=DIR
    svdjax evaluate --model=DIR --benchmark=math500 --data=hf:HuggingFaceH4/MATH-500 \
        --limit=100 --temperature=0 --out=DIR

What --data must be (each also as a JSON list, csv with a header or Parquet, or the hub's folder):
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

from svdjax import cli
from svdjax.engine.process import open_jax, prepare_process
from svdjax.engine.signals import StopRequest
from svdjax.evaluate.benchmarks import BENCHMARKS
from svdjax.evaluate.job import EvaluateJob
from svdjax.fields import Flags


def _data_help(name: str) -> str:
    """Form of a benchmark's --data, for --help."""
    text = BENCHMARKS[name].replace("--data: ", "")
    return textwrap.fill(text, 96, initial_indent=f"    {name:14}", subsequent_indent=" " * 18)


_FLAGS = Flags(EvaluateJob)
_DRY_RUN = cli.define_common()
__doc__ = __doc__.replace("{data}", "\n".join(map(_data_help, BENCHMARKS))) if __doc__ else None


def main() -> str:
    """Runs the evaluation of the flags; returns the summary for stdout."""
    with StopRequest() as stop:
        job = EvaluateJob(**_FLAGS.values(EvaluateJob))
        prepare_process()
        # jax is loaded from here on, once the flags are checked.
        open_jax()
        from svdjax.evaluate.run import dry_run_evaluate, run_evaluate

        if _DRY_RUN.value:
            return dry_run_evaluate(job)
        return run_evaluate(job, stop=stop).text()


if __name__ == "__main__":
    flags.mark_flags_as_required(["model", "benchmark", "data", "out"])
    cli.run(main, instead="the model is given by --model=DIR, its questions by --data=PATH")
