"""Generation: equal to transformers, independent of the batch, sharded, in few compilations."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from svdjax.model import Generator, Request, Sampling, decoder_mesh
from svdjax.model.generation import state
from svdjax.model.generation.generate import bucket
from svdjax.model.generation.sampling import sample
from tests.model.loading import Loaded, load, load_variant, traces


def run(generator: Generator, requests: list[Request]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in requests]
    for one in generator.run(requests):
        found[one.index] = list(one.tokens)
    return found


def likeliest(
    directory: pathlib.Path, prompt: list[int], new: list[int], context: int = 0
) -> list[int]:
    """What transformers finds likeliest after the prompt and after each of the new tokens.

    For these to be `new` is what greedy decoding is. Where rotary factors change after `context`
    tokens, two passes: one over so many, and one over all.
    """
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = torch.tensor([prompt + new[:-1]])
    with torch.no_grad():
        logits = model(tokens).logits[0]
        if context:
            logits[:context] = model(tokens[:, :context]).logits[0]
    return logits[len(prompt) - 1 :].argmax(-1).tolist()


FAMILIES = (
    "qwen2_windows",
    "llama",
    "mistral",
    "gemma2",
    "phi3",
    "qwen3",
    "olmo2",
    "gemma3_text",
    "granite",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe_yarn",
    "olmoe",
)


@pytest.mark.filterwarnings("ignore")  # transformers and torch warn of themselves
@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_equals_transformers(name: str, shallow: Callable[[str], Loaded]) -> None:
    # 40 new tokens: far beyond windows of 6 to 10 and phi3's original context of 16.
    model = shallow(name)
    draw = np.random.default_rng(3)
    prompts = [draw.integers(3, 128, size).tolist() for size in (4, 13, 16, 23)]
    generator = Generator(model.params, model.config, batch_size=2)
    found = run(generator, [Request(prompt, 40) for prompt in prompts])
    rope = model.config.rope
    context = rope.original_max_position_embeddings if rope.kind == "longrope" else 0
    for prompt, ours in zip(prompts, found):
        assert len(ours) == 40
        assert ours == likeliest(model.directory, prompt, ours, context)


@pytest.mark.filterwarnings("ignore")
def test_dynamic_rope_grows_with_every_token(shallow: Callable[[str], Loaded]) -> None:
    # Keys stay as they were turned at the length of their time: transformers with its cache.
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = shallow("llama_dynamic")
    prompts = [[5, 9, 77], [8, 3] * 8, [20, 30, 40] * 8]  # below, at and beyond a context of 16
    found = run(
        Generator(model.params, model.config, batch_size=2), [Request(p, 30) for p in prompts]
    )
    for prompt, ours in zip(prompts, found):
        # Anew for each, as it remembers how long the last one was.
        reference: Any = AutoModelForCausalLM.from_pretrained(
            model.directory, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        tokens = reference.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)
        assert ours == tokens[0, len(prompt) :].tolist()


@pytest.mark.filterwarnings("ignore")
def test_a_real_model_equals_transformers(shared: pathlib.Path) -> None:
    directory = shared / "checkpoints" / "stories260k"
    config, params = load(directory)
    prompts = [[1, 403, 407, 261, 378], [1, 5, 77, 300]]
    found = run(Generator(params, config, batch_size=2), [Request(p, 180) for p in prompts])
    for prompt, ours in zip(prompts, found):
        assert len(ours) == 180
        assert ours == likeliest(directory, prompt, ours)


@pytest.mark.parametrize(
    ("name", "temperature"), [("mistral", 0.0), ("phi3", 0.8), ("qwen3_moe", 0.8)]
)
def test_other_requests_change_nothing(
    name: str, temperature: float, shallow: Callable[[str], Loaded]
) -> None:
    # Rows free at different times are taken over by others, in batches of any size.
    model = shallow(name)
    draw = np.random.default_rng(7)
    requests = [
        Request(draw.integers(3, 128, int(size)).tolist(), int(count), stream=stream)
        for stream, (size, count) in enumerate(
            zip(draw.integers(1, 14, 9), draw.integers(1, 19, 9))
        )
    ]
    how = Sampling(temperature=temperature, top_p=0.9, seed=4)
    found = [
        run(Generator(model.params, model.config, batch_size=size, sampling=how), order)
        for size, order in ((8, requests), (2, requests[::-1]))
    ]
    assert found[0] == found[1][::-1]
    assert [len(each) for each in found[0]] == [one.max_new_tokens for one in requests]


def test_streams_and_seeds_differ(shallow: Callable[[str], Loaded]) -> None:
    model = shallow("phi3")  # with the programs of the test before
    requests = [Request([5, 6, 7], 20, stream=stream) for stream in (0, 1, 0)]
    one, two = (
        run(
            Generator(
                model.params, model.config, batch_size=2, sampling=Sampling(1.0, 1.0, seed=seed)
            ),
            requests,
        )
        for seed in (0, 1)
    )
    assert one[0] == one[2] != one[1]
    assert one[0] != two[0]


@pytest.mark.parametrize(
    ("name", "parts"), [("qwen2_windows", 2), ("phi3", 1), ("qwen3_moe", 2), ("qwen3_moe", 1)]
)
def test_sharded_is_the_same(name: str, parts: int, shallow: Callable[[str], Loaded]) -> None:
    model = shallow(name)
    draw = np.random.default_rng(2)
    requests = [Request(draw.integers(3, 128, n).tolist(), 12) for n in (3, 9, 20)]
    alone = run(Generator(model.params, model.config, batch_size=2), requests)
    mesh = decoder_mesh(2, tensor_parallel=parts)
    spread = Generator(model.params, model.config, batch_size=4, mesh=mesh)
    mlp = spread._params["layer_0"]["mlp"]
    kernel = mlp.get("experts", mlp)["down_proj"]["kernel"]
    assert kernel.addressable_shards[0].data.shape[-2] == kernel.shape[-2] // parts
    assert run(spread, requests) == alone


def test_compilations_are_few(tmp_path: pathlib.Path) -> None:
    model = load_variant("llama", tmp_path, num_hidden_layers=1)
    draw = np.random.default_rng(0)
    generator = Generator(model.params, model.config, batch_size=8)
    before = [traces(each) for each in (state.prefill, state.insert, state.decode)]
    sizes = draw.integers(1, 60, 40)
    run(generator, [Request(draw.integers(3, 128, int(n)).tolist(), 30) for n in sizes])
    after = [traces(each) for each in (state.prefill, state.insert, state.decode)]
    # Prompts fall into three lengths (32, 48, 64), the cache has one size.
    assert [now - then for now, then in zip(after, before)] == [3, 3, 1]


def test_stops_leave_their_rows(shallow: Callable[[str], Loaded]) -> None:
    model = shallow("qwen2_windows")
    free = run(
        Generator(model.params, model.config, batch_size=2), [Request([5, 6], 30), Request([8], 30)]
    )
    stop = free[0][7]
    generator = Generator(model.params, model.config, batch_size=2, stop_tokens=[stop, 127])
    found = {one.index: one for one in generator.run([Request([5, 6], 30), Request([8], 0)])}
    assert found[0].tokens == tuple(free[0][: free[0].index(stop)])
    assert found[0].stopped
    assert found[1].tokens == ()
    assert not found[1].stopped
    asked = Request([8], 30, stop_when=lambda new: len(new) >= 5)
    (early,) = Generator(model.params, model.config, batch_size=2).run([asked])
    assert early.stopped
    assert list(early.tokens) == free[1][: len(early.tokens)]
    assert 5 <= len(early.tokens) < 30


def test_sampling_draws_from_the_nucleus() -> None:
    p = np.array([0.5, 0.25, 0.15, 0.1])
    keys = jax.random.split(jax.random.key(0), 4000)
    logits = np.broadcast_to(np.log(p).astype(np.float32), (4000, 4))
    draw = jax.jit(sample)
    for temperature, top_p, kept in ((1.0, 0.7, 2), (1.0, 1.0, 4), (0.5, 0.95, 3), (1.0, 0.01, 1)):
        drawn = np.asarray(draw(logits, keys, np.float32(temperature), np.float32(top_p)))
        expected = p ** (1 / temperature)
        expected[kept:] = 0
        expected /= expected.sum()
        found = np.bincount(drawn, minlength=4) / 4000
        # Four deviations of a share out of 4000 draws.
        np.testing.assert_allclose(found, expected, atol=4 * 0.5 / np.sqrt(4000))
        assert not found[kept:].any()


def test_lengths_fall_into_buckets() -> None:
    assert [bucket(n) for n in (1, 32, 33, 48, 49, 64, 65, 97, 129)] == [
        32, 32, 48, 48, 64, 64, 96, 128, 192,
    ]  # fmt: skip
    for length in range(1, 3000):
        assert length <= bucket(length) <= max(32, length * 1.5)
