"""The shipped held-out texts: what the generator makes, whole and right."""

from __future__ import annotations

import collections
import json
import subprocess
import sys

import pytest

from svdjax import reference
from svdjax.errors import InputError
from tools.reference import texts
from tools.reference.chat import END, prompt
from tools.reference.grading import read_heldout
from tools.reference.problems import PATTERNS
from tools.reference.solutions import boxed

NAMES = ("instruct", "reasoning")


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_texts_are_what_the_generator_makes(name, tmp_path):
    lines = reference.text_path(name).read_text("utf-8").splitlines()
    assert [json.loads(line) for line in lines] == texts.records(name)
    texts.write(tmp_path)
    path = tmp_path / reference.text_path(name).name
    assert path.read_bytes() == reference.text_path(name).read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_they_are_held_out_questions_with_right_answers(name):
    records = texts.records(name)
    questions = {prompt(each["question"]): each for each in read_heldout(reference.heldout_path())}
    asked = [questions[record["prompt"]] for record in records]
    assert collections.Counter(each["pattern"] for each in asked) == dict.fromkeys(PATTERNS, 10)
    assert sum(each["template_seen"] for each in asked) == len(records) // 2 == 45
    for record, question in zip(records, asked):
        assert record["completion"].endswith(f"}}{END}")
        assert boxed(record["completion"]) == question["answer"]


def test_both_models_are_asked_the_same():
    instruct, reasoning = ([each["prompt"] for each in texts.records(name)] for name in NAMES)
    assert instruct == reasoning
    assert len(set(instruct)) == 90


def test_other_members_have_no_text():
    with pytest.raises(InputError, match="'base'; expected one of instruct, reasoning, rl"):
        reference.text_path("base")


def test_models_that_learned_from_sampled_answers_write_as_instruct_does():
    for name in ("rl", "rejection"):
        assert reference.text_path(name) == reference.text_path("instruct")


def test_configs_find_them_without_jax():
    code = (
        "import sys; from svdjax import reference; assert reference.text_path('instruct').is_file()"
        "; assert 'jax' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
