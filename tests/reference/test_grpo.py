"""Training by reward: the gradient is the policy gradient, and a stopped run goes on the same."""

from __future__ import annotations

import dataclasses
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

from svdjax import reference
from svdjax.checkpoint import model_config
from svdjax.errors import InputError
from svdjax.model import forward, init_params
from tools.reference import grpo, rollouts
from tools.reference.chat import END, prompt
from tools.reference.problems import held_out_operands
from tools.reference.recipes import RECIPES, PolicyRecipe, hf_config
from tools.reference.solutions import short
from tools.reference.training import Keeping

SHIPPED = RECIPES["rl"]
assert isinstance(SHIPPED, PolicyRecipe)
RECIPE = dataclasses.replace(
    SHIPPED, rows=24, samples=8, steps=4, new_tokens=8, peak=0.01, warmup=1
)
RAW = {"hidden_size": 32, "layers": 2, "intermediate_size": 48}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(reference.path("instruct") / "tokenizer.json"))


@pytest.fixture(scope="module")
def raw_config(tokenizer):
    return hf_config(tokenizer, chat_model=True, **RAW)


@pytest.fixture(scope="module")
def config(raw_config):
    return model_config(raw_config)


@pytest.fixture(scope="module")
def params(config):
    return init_params(config, jax.random.key(3), 0.2)


def _by_checksum(text, ended, problem):
    """A reward that a model of random weights can earn."""
    del ended, problem
    return zlib.crc32(text.encode()) % 3 == 0


def test_advantages_are_standard_scores_within_a_question():
    rewards = np.array([[1, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]], float)
    found = grpo.advantages(rewards)
    # mean 1/4, deviation sqrt(3)/4
    np.testing.assert_allclose(found[0], [3**0.5, *[-(3**-0.5)] * 3])
    np.testing.assert_array_equal(found[1:3], 0)
    np.testing.assert_allclose(found[3], [1, 1, -1, -1])


def test_only_an_ended_answer_with_the_right_box_is_rewarded():
    (problem, *_) = rollouts.step_questions(RECIPE, 0)
    right = short(problem)
    assert rollouts.is_right(right, True, problem)
    assert not rollouts.is_right(right, False, problem)
    assert not rollouts.is_right(right.replace("boxed", "box"), True, problem)
    assert not rollouts.is_right(right + rf" \boxed{{{problem.answer + 1}}}", True, problem)


def test_questions_are_training_ones_and_depend_on_seed_and_step():
    first, again, later = (rollouts.step_questions(RECIPE, step) for step in (0, 0, 1))
    assert len(first) == 3
    assert first == again
    assert first != later
    problems = [each for step in range(100) for each in rollouts.step_questions(RECIPE, step)]
    assert not any(held_out_operands(each.pattern, each.operands) for each in problems)
    assert all(each.template_seen for each in problems)


def test_answers_are_sampled_from_the_model(params, config, tokenizer, monkeypatch):
    monkeypatch.setattr(rollouts, "is_right", _by_checksum)
    answers = rollouts.sample_answers(params, config, tokenizer, RECIPE, 1)
    assert [each.question for each in answers] == [0] * 8 + [1] * 8 + [2] * 8
    assert answers == rollouts.sample_answers(params, config, tokenizer, RECIPE, 1)
    assert len({tuple(each.tokens) for each in answers}) == 24
    end = tokenizer.token_to_id(END)
    for each in answers:
        assert len(each.tokens) == 8 or each.tokens[-1] == end
        text = [token for token in each.tokens if token != end]
        assert each.right == _by_checksum(tokenizer.decode(text), True, None)


def test_gradient_is_the_policy_gradient(params, config, tokenizer):
    problems = rollouts.step_questions(RECIPE, 2)
    rng = np.random.default_rng(4)
    answers = [(row // 8, rng.integers(0, 800, 5 + row % 3).tolist(), 0.0) for row in range(24)]
    gains = rng.normal(size=24)
    gains[8:16] = 0  # a question whose answers were all rewarded alike
    told = [(question, tokens, gain) for (question, tokens, _), gain in zip(answers, gains)]
    tokens, weights = rollouts.assemble(tokenizer, problems, told, rows=24, length=64)
    assert tokens.shape == (2, 16, 65)
    assert np.count_nonzero(weights.any(axis=2)) == 16
    ids = [tokenizer.encode(prompt(each.question)).ids for each in problems]

    def objective(params, logarithm):
        """Sum of A log π, answer by answer, without padding."""
        total = 0.0
        for question, answer, gain in told:
            whole = [*ids[question], *answer]
            logits = forward(params, config, jnp.asarray([whole[:-1]], jnp.int32))[0]
            start = len(ids[question]) - 1
            logs = logarithm(logits)[np.arange(start, len(whole) - 1), whole[start + 1 :]]
            total += gain * logs.sum()
        return total

    def exactly(logits):
        values = np.asarray(logits, np.float64)
        return values - np.log(np.sum(np.exp(values), axis=-1, keepdims=True))

    loss, gradients = jax.jit(grpo.weighted_loss(config))(params, tokens, weights)
    np.testing.assert_allclose(loss, -objective(params, exactly), rtol=1e-4)
    chosen = params["layers"]["mlp"]["up_proj"]["kernel"]
    direction = rng.normal(size=chosen.shape).astype(np.float32)

    def moved(step):
        tree = jax.tree.map(lambda leaf: leaf, params)
        tree["layers"]["mlp"]["up_proj"]["kernel"] = chosen + jnp.float32(step) * direction
        return float(objective(tree, exactly))

    # Central differences: their error is of second order in the step, float32's logits round.
    slope = (moved(1e-3) - moved(-1e-3)) / 2e-3
    found = np.vdot(gradients["layers"]["mlp"]["up_proj"]["kernel"], direction)
    np.testing.assert_allclose(found, -slope, rtol=0.02)


def _learn(params, config, raw_config, tokenizer, folder, name="rl"):
    recipe = dataclasses.replace(RECIPE, name=name)
    given = (recipe, config, raw_config, tokenizer, folder)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        return grpo.learn(*given, start=params, keeping=Keeping(2, 2))


def test_a_stopped_run_goes_on_the_same_and_rejection_learns_its_right_answers(
    params, config, raw_config, tokenizer, monkeypatch, tmp_path
):
    given = (params, config, raw_config, tokenizer)
    monkeypatch.setattr(rollouts, "is_right", _by_checksum)
    whole = _learn(*given, tmp_path / "whole")
    keep = grpo.keep_answers

    def killed(folder, step, answers):
        if step == 3:
            raise KeyboardInterrupt
        keep(folder, step, answers)

    monkeypatch.setattr(grpo, "keep_answers", killed)
    with pytest.raises(KeyboardInterrupt):
        _learn(*given, tmp_path / "parts")
    monkeypatch.setattr(grpo, "keep_answers", keep)
    parts = _learn(*given, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    for step in range(4):
        one, other = (
            rollouts.kept_answers(grpo.rollouts_folder(tmp_path / folder), step)
            for folder in ("whole", "parts")
        )
        assert one == other
    kept = {path.name for path in (tmp_path / "whole/rl/checkpoints").iterdir()}
    assert {"2", "4"} <= kept
    assert any(
        np.any(one != two) for one, two in zip(jax.tree.leaves(whole), jax.tree.leaves(params))
    )

    draw = grpo.make_draw(
        dataclasses.replace(RECIPE, name="rejection"), config, tokenizer, tmp_path / "whole"
    )
    tokens, weights = draw(None, 1)
    answers = rollouts.kept_answers(grpo.rollouts_folder(tmp_path / "whole"), 1)
    right = [each.tokens for each in answers if each.right]
    told = [
        line[1:][w > 0].tolist() for line, w in zip(tokens.reshape(32, -1), weights.reshape(32, -1))
    ]
    assert [line for line in told if line] == right
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)
    rewards = grpo.mean_rewards(4, tmp_path / "whole")
    marks = [
        each["right"]
        for step in range(4)
        for each in json.loads((tmp_path / f"whole/rl/rollouts/{step}.json").read_text("utf-8"))
    ]
    assert rewards == [round(float(np.mean(marks)), 4)]


def test_supervised_learns_one_solution_a_question(config, tokenizer, tmp_path):
    recipe = dataclasses.replace(RECIPE, name="supervised")
    tokens, weights = grpo.make_draw(recipe, config, tokenizer, tmp_path)(None, 3)
    lines = zip(tokens.reshape(32, -1), weights.reshape(32, -1))
    told = [tokenizer.decode(line[1:][w > 0].tolist()) for line, w in lines]
    expected = [short(each) for each in rollouts.step_questions(RECIPE, 3)]
    assert [text for text in told if text] == expected
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-5)


def test_rejection_without_answers_says_what_to_do(config, tokenizer, tmp_path):
    recipe = dataclasses.replace(RECIPE, name="rejection")
    with pytest.raises(InputError, match="train rl first"):
        grpo.make_draw(recipe, config, tokenizer, tmp_path)(None, 0)
