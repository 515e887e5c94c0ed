"""Greedy decoding: the cache changes nothing, and a real model tells its story."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from tokenizers import Tokenizer

from svdjax.model import forward, greedy
from tests.model.loading import Loaded, load


def uncached(model: Loaded, prompts: list[list[int]], count: int) -> list[list[int]]:
    """The definition: the whole sequences through the decoder for every token."""
    sequences = [list(prompt) for prompt in prompts]
    width = max(map(len, prompts)) + count
    for _ in range(count):
        tokens = np.zeros((len(prompts), width), np.int32)
        lengths = np.array([len(sequence) for sequence in sequences])
        for row, sequence in enumerate(sequences):
            tokens[row, : len(sequence)] = sequence
        valid = np.arange(width)[None, :] < lengths[:, None]
        logits = np.asarray(forward(model.params, model.config, tokens, valid))
        for row, sequence in enumerate(sequences):
            sequence.append(int(logits[row, lengths[row] - 1].argmax()))
    return [sequence[len(prompt) :] for sequence, prompt in zip(sequences, prompts)]


@pytest.mark.parametrize("name", ["phi3"])
def test_cache_changes_nothing(name: str, shallow: Callable[[str], Loaded]) -> None:
    # A window of 10 and the original context (16) are crossed, each row at its own time.
    model = shallow(name)
    draw = np.random.default_rng(5)
    prompts = [draw.integers(0, 128, size).tolist() for size in (3, 9, 14, 20)]
    expected = uncached(model, prompts, 16)
    assert greedy(model.params, model.config, prompts, max_new_tokens=16) == expected


def test_sequences_end_before_stop_tokens(shallow: Callable[[str], Loaded]) -> None:
    model = shallow("phi3")  # and four prompts: with the programs of the test before
    prompts = [[5, 6, 7], [9, 3], [8], [20, 30]]
    free = greedy(model.params, model.config, prompts, max_new_tokens=12)
    stops = {free[0][4], free[1][2]}
    ended = greedy(model.params, model.config, prompts, max_new_tokens=12, stop_tokens=stops)
    for long, short in zip(free, ended):
        where = [i for i, token in enumerate(long) if token in stops]
        assert short == long[: where[0] if where else None]


def test_edges(variant: Callable[[str], Loaded]) -> None:
    model = variant("qwen2")
    assert greedy(model.params, model.config, [], max_new_tokens=3) == []
    assert greedy(model.params, model.config, [[1], [2]], max_new_tokens=0) == [[], []]
    with pytest.raises(ValueError, match="a prompt is empty"):
        greedy(model.params, model.config, [[1], []], max_new_tokens=1)


def test_stories260k_tells_its_story(shared: pathlib.Path) -> None:
    directory = shared / "checkpoints" / "stories260k"
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    prompt = "Once upon a time"
    ids = tokenizer.encode(prompt).ids
    ids = ids if ids[0] == 1 else [1, *ids]  # 1 is <s>
    config, params = load(directory)
    # Two prompts, as in test_generation: with the same programs.
    new, _ = greedy(params, config, [ids, [1]], max_new_tokens=60, stop_tokens=[2])
    text = tokenizer.decode([*ids, *new])
    expected = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "park. One day, she saw a big, red ball."
    )
    assert text.strip().startswith(expected)
