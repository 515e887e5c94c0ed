"""The shipped files: small, readable, the same in transformers, and really trained."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest

from svdjax import reference
from svdjax.checkpoint import open_checkpoint
from svdjax.errors import InputError
from svdjax.model import forward
from tools.reference.chat import SYSTEMS, prompt
from tools.reference.family import read_model, write_heldout
from tools.reference.grading import grade, read_heldout, respond

# The floor for all held-out questions; a subset of 54 strays by about 6 points (one
# standard deviation at 75 % is 5.9), which the measured accuracies leave room for.
FLOOR = 70.0
QUESTIONS = 54


@pytest.fixture(scope="module")
def subset():
    """Every eighth or so of the questions, all patterns, seen and unseen templates alike."""
    return read_heldout(reference.heldout_path())[:QUESTIONS]


def test_unknown_name_is_refused():
    with pytest.raises(InputError, match="base_prime"):
        reference.path("bass")


def test_files_are_small():
    files = [f for name in reference.NAMES for f in reference.path(name).rglob("*") if f.is_file()]
    assert sum(file.stat().st_size for file in files) <= 14e6
    for name in reference.NAMES:
        present = {file.name for file in reference.path(name).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= (
            present
        )


def test_shipped_questions_are_the_generated_ones(tmp_path):
    write_heldout(tmp_path / "heldout.jsonl")
    assert (tmp_path / "heldout.jsonl").read_bytes() == reference.heldout_path().read_bytes()


@pytest.mark.parametrize("name", reference.NAMES)
def test_weights_are_bfloat16_and_finite(name):
    with open_checkpoint(str(reference.path(name))) as checkpoint:
        for tensor in checkpoint.names:
            assert str(checkpoint.spec(tensor).dtype) == "bfloat16"
            assert np.isfinite(checkpoint.read(tensor).astype(np.float32)).all(), tensor


@pytest.mark.parametrize("name", ["instruct", "reasoning", "rl", "rejection", "base_prime"])
def test_training_touched_every_tensor(name):
    with (
        open_checkpoint(str(reference.path("base"))) as base,
        open_checkpoint(str(reference.path(name))) as post,
    ):
        assert base.names == post.names
        for tensor in base.names:
            assert (base.read(tensor) != post.read(tensor)).any(), tensor


@pytest.mark.parametrize("name", reference.NAMES)
def test_tokenizer_loads_and_its_template_is_the_one_trained_on(name):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reference.path(name))
    question = "Tom has 47 apples. How many apples does Tom have now?"
    turns = [{"role": "user", "content": question}]
    for system in ("", SYSTEMS[-1]):
        head = [{"role": "system", "content": system}] if system else []
        text = tokenizer.apply_chat_template(
            head + turns, tokenize=False, add_generation_prompt=True
        )
        assert text == prompt(question, system)
    ids = tokenizer(question)["input_ids"]
    assert ids == read_model(reference.path(name))[2].encode(question).ids
    assert tokenizer.decode(ids) == question
    config = json.loads((reference.path(name) / "config.json").read_text(encoding="utf-8"))
    assert tokenizer.eos_token_id == config["eos_token_id"]
    assert len(tokenizer) == config["vocab_size"]


@pytest.mark.parametrize("name", reference.NAMES)
def test_logits_equal_transformers(name):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    params, config, tokenizer = read_model(reference.path(name))
    question = read_heldout(reference.heldout_path())[7]["question"]
    ids = tokenizer.encode(prompt(question)).ids
    model = AutoModelForCausalLM.from_pretrained(reference.path(name), dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits.numpy()
    found = np.asarray(forward(params, config, jnp.asarray([ids], jnp.int32)))
    # The project's bound for logits in float32 (issue 2, point 3).
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.parametrize("name", ["instruct", "reasoning", "rl", "rejection"])
def test_post_trained_models_answer_heldout_questions(name, subset):
    params, config, tokenizer = read_model(reference.path(name))
    answers = respond(params, config, tokenizer, [each["question"] for each in subset])
    assert grade(subset, answers)["all"] >= FLOOR


def test_base_does_not(subset):
    params, config, tokenizer = read_model(reference.path("base"))
    questions = [each["question"] for each in subset]
    answers = respond(params, config, tokenizer, questions, max_new_tokens=48)
    graded = grade(subset, answers)
    assert graded["all"] == 0.0
    assert graded["lenient"] <= 20.0


@pytest.mark.parametrize("name", ["instruct", "reasoning", "rl", "rejection"])
def test_what_the_readme_states_was_measured(name):
    text = (reference.path(name) / "measured.json").read_text(encoding="utf-8")
    readme = (reference.heldout_path().parent / "README.md").read_text(encoding="utf-8")
    measured = json.loads(text)
    assert measured["recipe"]["name"] == name
    accuracy = measured["accuracy"]
    assert accuracy["all"] >= FLOOR
    assert sum(key.startswith("pattern") for key in accuracy) == 9
    for key, value in accuracy.items():
        assert f"{value:.1f}" in readme, key
