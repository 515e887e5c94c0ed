"""One member of the family: trains it, writes its Hugging Face directory, measures, records."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from svdjax.checkpoint import (
    ModelConfig,
    load_params,
    model_config,
    open_checkpoint,
    save_checkpoint,
)
from svdjax.errors import InputError
from svdjax.model import Sampling

from . import tokenizer as tokenizers_
from .grading import as_record, grade, respond
from .grpo import learn, mean_rewards
from .problems import heldout_problems
from .recipes import MAX_LENGTH, PolicyRecipe, Recipe, hf_config
from .training import Keeping, heldout_loss, train


def write_heldout(path: pathlib.Path) -> list[dict[str, Any]]:
    """Writes the held-out questions, the same ones every time, and returns them."""
    records = [as_record(each) for each in heldout_problems()]
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return records


def read_model(directory: pathlib.Path) -> tuple[Any, Any, Tokenizer]:
    """Parameters (float32), configuration and tokenizer of a family member on disk."""
    if not (directory / "config.json").is_file():
        raise InputError(f"{directory}: no config.json; train this member of the family first")
    with open_checkpoint(str(directory)) as checkpoint:
        config = model_config(checkpoint.config)
        params = load_params(checkpoint, config, np.float32)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return jax.tree.map(jax.numpy.asarray, params), config, tokenizer


def write_model(
    directory: pathlib.Path, params: Any, raw_config: dict[str, Any], tokenizer: Tokenizer
) -> None:
    """Writes a family member: bf16 weights, config, tokenizer with its chat template."""
    chat_model = raw_config["eos_token_id"] != raw_config["bos_token_id"]
    with tempfile.TemporaryDirectory() as scratch:
        extras = pathlib.Path(scratch)
        tokenizers_.save(tokenizer, extras, chat_model=chat_model, length=MAX_LENGTH)
        save_checkpoint(
            directory, params, raw_config, dtype="bfloat16", copy_from=extras, overwrite=True
        )


def make(
    recipe: Recipe,
    out: pathlib.Path,
    workdir: pathlib.Path,
    *,
    keeping: Keeping,
    sizes: dict[str, int],
    graded: bool = True,
) -> dict[str, Any]:
    """Trains one member (or goes on with it), writes it to `out/<name>` and measures the result.

    Returns:
        The content of `out/<name>/measured.json`: recipe, losses, accuracy, seconds.
    """
    tokenizer = tokenizers_.build()
    raw_config = hf_config(tokenizer, chat_model=bool(recipe.parent), **sizes)
    parent = read_model(out / recipe.parent)[0] if recipe.parent else None
    given = (model_config(raw_config), raw_config, tokenizer, workdir)
    start = None
    if isinstance(recipe, PolicyRecipe):
        start = train(recipe.start, *given, parent=parent, keeping=keeping)
        params = learn(recipe, *given, start=start, keeping=keeping)
    else:
        params = train(recipe, *given, parent=parent, keeping=keeping)
    out.mkdir(parents=True, exist_ok=True)
    write_model(out / recipe.name, params, raw_config, tokenizer)
    measured = {
        "recipe": dataclasses.asdict(recipe),
        "parameters": sum(int(leaf.size) for leaf in jax.tree.leaves(params)),
        "tokens": recipe.steps * recipe.rows * recipe.length,
        **_losses(recipe, workdir),
        **measure(recipe, out, graded=graded),
    }
    if start is not None:
        measured["rewards"] = mean_rewards(recipe.steps, workdir)
        if graded:
            measured["start"] = accuracies(start, given[0], tokenizer, out, sampled=True)
    record = out / recipe.name / "measured.json"
    record.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return measured


def measure(recipe: Recipe, out: pathlib.Path, *, graded: bool = True) -> dict[str, Any]:
    """Held-out loss and accuracy of a member as written, that is of the rounded weights."""
    params, config, tokenizer = read_model(out / recipe.name)
    policy = isinstance(recipe, PolicyRecipe)
    text = recipe.start if isinstance(recipe, PolicyRecipe) else recipe
    measured: dict[str, Any] = {"heldout_loss": heldout_loss(text, config, tokenizer, params)}
    if graded:
        measured |= accuracies(params, config, tokenizer, out, sampled=policy)
    return measured


def accuracies(
    params: Any, config: ModelConfig, tokenizer: Tokenizer, out: pathlib.Path, *, sampled: bool
) -> dict[str, Any]:
    """Percentages right on the held-out questions: greedily and, if wanted, at temperature 1."""
    records = write_heldout(out / "heldout.jsonl")
    asked = [each["question"] for each in records]
    answers = respond(params, config, tokenizer, asked)
    measured = {"questions": len(records), "accuracy": grade(records, answers)}
    if sampled:
        answers = respond(params, config, tokenizer, asked, sampling=Sampling(temperature=1.0))
        measured["sampled_accuracy"] = grade(records, answers)
    return measured


def _losses(recipe: Recipe, workdir: pathlib.Path) -> dict[str, Any]:
    log = workdir / recipe.name / "losses.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    # A resumed run writes some steps again: the later line counts.
    last = {line["step"]: line for line in lines}
    steps = sorted(last)
    return {
        "first_loss": last[steps[0]]["loss"],
        "last_loss": last[steps[-1]]["loss"],
        "training_seconds": round(sum(line["seconds"] for line in last.values()), 1),
    }
