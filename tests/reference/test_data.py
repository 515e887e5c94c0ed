"""The generated data keeps the promises that make the accuracy mean something."""

from __future__ import annotations

import collections
import random

import numpy as np
import pytest
from tokenizers import Tokenizer

from svdjax import reference
from tools.reference import batches, corpus, problems, solutions
from tools.reference import tokenizer as tokenizers_
from tools.reference.chat import END, START
from tools.reference.problems import HELDOUT_PER_PATTERN
from tools.reference.worlds import WORLD, WORLD_PRIME


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers_.build()


@pytest.fixture(scope="module")
def heldout():
    return list(problems.heldout_problems())


@pytest.fixture(scope="module")
def trained_on():
    rng = random.Random("test")
    return [problems.training_problem(rng) for _ in range(6000)]


def test_heldout_questions_share_neither_operands_nor_all_templates(heldout, trained_on):
    seen = {(each.pattern, each.operands) for each in trained_on}
    assert not seen & {(each.pattern, each.operands) for each in heldout}
    templates = {each.template for each in trained_on}
    unseen = [each for each in heldout if not each.template_seen]
    assert len(unseen) == len(heldout) // 2
    assert not templates & {each.template for each in unseen}


def test_split_is_a_rule_not_a_sample(heldout, trained_on):
    assert all(problems.held_out_operands(each.pattern, each.operands) for each in heldout)
    assert not any(problems.held_out_operands(each.pattern, each.operands) for each in trained_on)
    assert not any(problems.held_out_template(each.template) for each in trained_on)


def test_difficulty(heldout):
    patterns = collections.Counter(each.pattern for each in heldout)
    assert set(patterns) == set(problems.PATTERNS)
    assert set(patterns.values()) == {HELDOUT_PER_PATTERN}
    assert {len(each.steps) for each in heldout} == {1, 2}
    operands = [value for each in heldout for value in each.operands]
    assert max(operands) == problems.MAX_OPERAND == 99
    assert min(operands) >= 2
    # Wide, not small, numbers: most operands that are not factors have two digits.
    wide = [each.operands[0] >= 10 for each in heldout]
    assert np.mean(wide) > 0.8


def test_no_answer_is_frequent(heldout):
    (_, times), *_ = collections.Counter(each.answer for each in heldout).most_common(1)
    assert times / len(heldout) < 0.05


@pytest.mark.parametrize("pattern", problems.PATTERNS)
def test_answers_against_python(pattern):
    rng = random.Random(pattern)
    for _ in range(200):
        operands = problems.draw_operands(rng, pattern)
        names = dict(zip("ab" if len(operands) == 2 else "abc", operands))
        if pattern.startswith("a*k"):
            names = dict(zip("akb", operands))
        assert problems.solve(pattern, operands)[-1].result == eval(pattern, {}, names)


def test_solutions_end_in_the_box_and_their_columns_are_right(trained_on):
    for problem in trained_on[:1500]:
        for text in (solutions.short(problem), solutions.long(problem)):
            assert text.endswith(f"\\boxed{{{problem.answer}}}")
            assert solutions.boxed(text) == problem.answer
        for step in problem.steps:
            lines = solutions.columns(step)
            carries = 0
            digits = []
            for place, line in enumerate(lines):
                work = line.split(": ", 1)[1].rstrip(".").removeprefix("borrow, ").split(", ")[0]
                left, _, right = work.partition("=")
                assert not right or eval(left) == int(right)
                value = int(right or left)
                last = place == len(lines) - 1
                digits.append(value if last else value % 10)
                carries += "carry" in line
            assert sum(d * 10**place for place, d in enumerate(digits)) == step.result


@pytest.mark.parametrize("world", [WORLD, WORLD_PRIME], ids=["base", "base_prime"])
def test_pretraining_text_has_no_answer_format_and_no_chat(world):
    rng = random.Random("format")
    text = "\n".join(corpus.document(rng, world) for _ in range(5000))
    for mark in ("boxed", "\\", "{", START, END, "assistant", "user", "The answer is"):
        assert mark not in text


def test_worlds_share_no_names_and_no_things():
    assert not {n for n, *_ in WORLD.names} & {n for n, *_ in WORLD_PRIME.names}
    assert not set(WORLD.things) & set(WORLD_PRIME.things)


def test_base_saw_every_word_of_the_questions(heldout, tokenizer):
    rng = random.Random("words")
    seen = set()
    for encoding in tokenizer.encode_batch([corpus.document(rng, WORLD) for _ in range(20000)]):
        seen.update(encoding.ids)
    for problem in heldout:
        ids = tokenizer.encode(problem.question).ids
        assert set(ids) <= seen, tokenizer.decode([i for i in ids if i not in seen])


def test_tokenizer_splits_digits_and_keeps_any_text(tokenizer):
    assert tokenizer.get_vocab_size() <= 1024
    assert tokenizer.encode("\\boxed{640}").tokens[-4:] == ["6", "4", "0", "}"]
    assert tokenizer.encode("47 apples").tokens == ["4", "7", "Ġapples"]
    strange = "Füße, 漢字\t\n\n  x²\r\n"
    assert tokenizer.decode(tokenizer.encode(strange).ids) == strange


def test_tokenizer_is_the_shipped_one(tokenizer):
    shipped = Tokenizer.from_file(str(reference.path("base") / "tokenizer.json"))
    assert shipped.to_str() == tokenizer.to_str()


def test_batches_depend_on_seed_and_step_only(tokenizer):
    def draw(seed, step):
        return batches.pretraining_batch(
            tokenizer, WORLD, seed=seed, step=step, rows=4, length=64
        ).tokens

    np.testing.assert_array_equal(draw(3, 7), draw(3, 7))
    assert (draw(3, 7) != draw(3, 8)).any()
    assert (draw(3, 7) != draw(4, 7)).any()


@pytest.mark.parametrize("answer", [solutions.short, solutions.long])
def test_tuning_counts_the_assistants_tokens_only(tokenizer, answer):
    batch = batches.tuning_batch(tokenizer, answer, seed=1, step=2, rows=6, length=232)
    assert batch.tokens.shape == (6, 233)
    for tokens, weights in zip(batch.tokens, batch.weights):
        told = tokenizer.decode(list(tokens[1:][weights > 0]), skip_special_tokens=False)
        before = tokenizer.decode(list(tokens[:-1][weights == 0]), skip_special_tokens=False)
        assert told.endswith("}" + END)
        assert START not in told
        assert before.startswith(START)
