"""Log-likelihoods of continuations, against numpy on logits of single sequences."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.model import decoder_mesh, forward
from svdjax.text.scoring import Scorer
from tests.support import tiny
from tests.text.expected import log_softmax


def random_requests(config, count, longest, seed=0):
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        tokens = draw.integers(0, config.vocab_size, draw.integers(2, longest)).tolist()
        cut = int(draw.integers(1, len(tokens)))
        found.append((tokens[:cut], tokens[cut:]))
    return found


def next_logits(params, config, sequence):
    """Logits after each token of one sequence; one shape for all, so that it is compiled once."""
    tokens = np.zeros((1, 80), np.int32)
    tokens[0, : len(sequence)] = sequence
    valid = np.arange(80)[None, :] < len(sequence)
    return np.asarray(forward(params, config, tokens, valid))[0, : len(sequence)]


def wanted(params, config, request):
    context, continuation = request
    logits = next_logits(params, config, [*context, *continuation[:-1]])
    log = log_softmax(logits[len(context) - 1 :])
    likeliest = (log.argmax(-1) == continuation).all()
    return log[np.arange(len(continuation)), continuation].sum(), likeliest


@pytest.mark.parametrize(
    ("family", "devices", "tensor_parallel", "longest"),
    # Rows of several lengths; of one, on either side of phi3's original context.
    [("qwen2", 1, 1, 60), ("phi3", 2, 1, 32), ("gemma2", 2, 2, 32)],
)
def test_every_request_as_if_alone(family, devices, tensor_parallel, longest, tmp_path):
    path = tiny.make_checkpoint(tmp_path, family)
    config = model_config(path)
    with open_checkpoint(path) as checkpoint:
        params = load_params(checkpoint, config, None)
    requests = random_requests(config, 14, longest)
    context = requests[0][0]
    # Four answers to one question, one of them twice, and greedy ones of one and of three tokens.
    requests += [(context, [token]) for token in (3, 5, 7, 7)]
    greedy = list(context)
    for _ in range(3):
        greedy.append(int(next_logits(params, config, greedy)[-1].argmax()))
    new = greedy[len(context) :]
    requests += [(context, new[:1]), (context, new)]
    scorer = Scorer(
        params, config, batch_size=4, mesh=decoder_mesh(devices, tensor_parallel), dtype=jnp.float32
    )
    found = {one.index: one for one in scorer.run(requests)}
    assert sorted(found) == list(range(len(requests)))
    for index, request in enumerate(requests):
        log, likeliest = wanted(params, config, request)
        # Logits of size 10 are some 1e-5 off for each of up to 60 tokens, in another order of sums.
        assert found[index].log_likelihood == pytest.approx(log, abs=1e-3)
        assert found[index].is_greedy == likeliest
    assert found[len(requests) - 1].is_greedy
    assert found[len(requests) - 2].is_greedy


def test_many_questions_of_one_text(tmp_path):
    """More than fit beside one row: the text is read again, and nothing is lost."""
    path = tiny.make_checkpoint(tmp_path, "qwen2")
    config = model_config(path)
    with open_checkpoint(path) as checkpoint:
        params = load_params(checkpoint, config, None)
    requests = [([1, 2, 3], [token]) for token in range(100)]
    found = sorted(Scorer(params, config).run(requests))
    logits = next_logits(params, config, [1, 2, 3])[-1]
    logs = [one.log_likelihood for one in found]
    np.testing.assert_allclose(logs, log_softmax(logits)[:100], atol=1e-4)
    assert [one.is_greedy for one in found] == [token == logits.argmax() for token in range(100)]


def test_empty_requests(tmp_path):
    path = tiny.make_checkpoint(tmp_path, "qwen2")
    config = model_config(path)
    with open_checkpoint(path) as checkpoint:
        scorer = Scorer(load_params(checkpoint, config, None), config)
    assert list(scorer.run([])) == []
    for request in (([], [1]), ([1], [])):
        with pytest.raises(ValueError, match="is empty"):
            list(scorer.run([request]))
