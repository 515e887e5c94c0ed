"""Measures greedy generation beside transformers' `generate`: same machine, model, batch, tokens.

    python tools/benchmark_generation.py --model=svdjax/reference/instruct
    python tools/benchmark_generation.py --model=DIR --batch_size=64 --new_tokens=512

Needs torch (`pip install -e .[torch]`). Prompts are random tokens of 16 to 63; nothing stops early.
Both sides are run once to warm up (that run, with all compilation, is `first_seconds`) and then
`--rounds` times in turn; the ratio is that of the best times. Prints one JSON object.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from svdjax import cli
from svdjax.engine.process import prepare_process

_MODEL = flags.DEFINE_string("model", None, "Directory of the checkpoint.")
_BATCH = flags.DEFINE_integer("batch_size", 32, "Sequences decoded together.", 1)
_NEW = flags.DEFINE_integer("new_tokens", 128, "Tokens after each prompt.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed runs of each side.", 1)


def main() -> str:
    """Measures; returns the JSON."""
    prepare_process()
    import jax
    import torch
    import transformers
    from benchmark_shared import machine

    draw = np.random.default_rng(0)
    ours, vocabulary = _ours()
    theirs = _theirs()
    lengths = draw.integers(16, 64, _BATCH.value)
    prompts = [draw.integers(3, vocabulary - 3, int(length)).tolist() for length in lengths]
    first, equal = [], []
    for side in (ours, theirs):
        began = time.perf_counter()
        equal.append(side(prompts))
        first.append(time.perf_counter() - began)
    times: list[list[float]] = [[], []]
    for _ in range(_ROUNDS.value):
        for kept, side in zip(times, (ours, theirs)):
            began = time.perf_counter()
            side(prompts)
            kept.append(time.perf_counter() - began)
    tokens = _BATCH.value * _NEW.value
    sides = {
        name: {
            "first_seconds": round(cold, 3),
            "best_seconds": round(min(warm), 4),
            "all_seconds": [round(each, 4) for each in warm],
            "tokens_per_second": round(tokens / min(warm)),
        }
        for name, cold, warm in zip(("svdjax", "transformers"), first, times)
    }
    found = {
        "model": _MODEL.value,
        "batch_size": _BATCH.value,
        "new_tokens": _NEW.value,
        "ratio": round(min(times[1]) / min(times[0]), 2),
        "same_rows": sum(a == b for a, b in zip(*equal)),
        **sides,
        **machine(),
        "devices": [str(device) for device in jax.devices()],
        "versions": {each.__name__: each.__version__ for each in (jax, torch, transformers)},
    }
    return json.dumps(found, indent=2)


def _ours() -> tuple[Callable[[list[list[int]]], list[list[int]]], int]:
    from svdjax.checkpoint import load_params, model_config, open_checkpoint
    from svdjax.model import Generator, Request, decoder_mesh

    directory = _MODEL.value or ""
    config = model_config(directory)
    with open_checkpoint(directory) as checkpoint:
        params = load_params(checkpoint, config)
    generator = Generator(params, config, batch_size=_BATCH.value, mesh=decoder_mesh())

    def side(prompts: list[list[int]]) -> list[list[int]]:
        found: list[list[int]] = [[] for _ in prompts]
        for one in generator.run([Request(prompt, _NEW.value) for prompt in prompts]):
            found[one.index] = list(one.tokens)
        return found

    return side, config.vocab_size


def _theirs() -> Callable[[list[list[int]]], list[list[int]]]:
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = AutoModelForCausalLM.from_pretrained(_MODEL.value or "", dtype=torch.float32)
    model = model.to(device).eval()
    model.generation_config.eos_token_id = None

    def side(prompts: list[list[int]]) -> list[list[int]]:
        width = max(map(len, prompts))
        tokens = torch.zeros((len(prompts), width), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        with torch.no_grad():
            out = model.generate(
                tokens.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=_NEW.value,
                do_sample=False,
                pad_token_id=0,
            )
        return out[:, width:].tolist()

    return side


if __name__ == "__main__":
    flags.mark_flag_as_required("model")
    cli.run(main)
