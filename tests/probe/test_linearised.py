"""Logits linearised around base: against finite differences and numpy, in float64."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from svdjax import reference
from svdjax.errors import InputError
from svdjax.model import decoder_mesh, forward
from svdjax.probe import linearised as module
from svdjax.probe.job import ProbeJob
from svdjax.probe.linearised import ALL, MODULES, OTHER, Linearised, Point, linearise
from svdjax.probe.run import run_probe
from tests.model.loading import load, write
from tests.support.schemas import check_files

BASE, INSTRUCT = (str(reference.path(name)) for name in ("base", "instruct"))


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The decoder in float64 throughout: what it does in float32 in any case too."""
    with jax.enable_x64(True):
        monkeypatch.setattr(jnp, "float32", jnp.float64)
        yield


def pair(name: str, folder: pathlib.Path, size: float, dtype: Any) -> tuple[Any, Any, Any]:
    """Configuration, base, and base with every leaf changed by `size` of its deviation."""
    config, params = load(write(name, folder, num_hidden_layers=2))
    draw = np.random.default_rng(3)
    base = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params)

    def moved(leaf: np.ndarray) -> np.ndarray:
        scale = size * (leaf.std() + 1e-3)
        return (leaf + scale * draw.standard_normal(leaf.shape)).astype(dtype)

    return config, base, jax.tree.map(moved, base)


@pytest.mark.parametrize("name", ["qwen2", "gemma2"])
def test_the_derivative_is_that_of_central_differences(
    name: str, tmp_path: pathlib.Path, double: None
) -> None:
    config, base, post = pair(name, tmp_path, 0.3, np.float64)
    tokens = np.random.default_rng(0).integers(3, 128, (2, 8)).astype(np.int32)
    lengths = np.array([8, 6], np.int32)

    def tangent(part: str) -> np.ndarray:
        mask = module.mask_of(base, part)
        return np.asarray(module._tangent(base, post, mask, config, tokens, lengths, np.float64))

    def logits(scale: float) -> np.ndarray:
        params = jax.tree.map(lambda b, p: b + scale * (p - b), base, post)
        valid = np.arange(8)[None] < lengths[:, None]
        return np.asarray(forward(params, config, tokens, valid, dtype=np.float64))

    whole = tangent(ALL)
    errors = [np.abs((logits(h) - logits(-h)) / (2 * h) - whole).max() for h in (4e-3, 2e-3, 1e-3)]
    # O(h^2): a quarter at half the step; the next term is smaller by h^2.
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 4, rtol=0.02)
    assert errors[-1] < 1e-4 * np.abs(whole).max()
    # Linear in the tangent: modules add up, and what does not move adds nothing.
    np.testing.assert_allclose(
        sum(tangent(part) for part in (*MODULES, OTHER)), whole, rtol=0, atol=1e-11
    )
    parts = module.parts_of(base)
    projections = [part for part in parts if part.endswith("_proj")]
    in_mlp = [part for part in projections if any("/mlp/" in path for path in parts[part])]
    assert len(projections) == 7
    np.testing.assert_allclose(
        sum(tangent(part) for part in in_mlp), tangent("mlp"), rtol=0, atol=1e-11
    )
    # What of a tiny change is not first order vanishes as its square, and the share tends to 1.
    scales = (1e-2, 5e-3)
    result = linearise(
        jax.tree.map(jnp.asarray, base),
        jax.tree.map(jnp.asarray, post),
        config,
        tokens[:1].tolist(),
        mesh=decoder_mesh(1),
        points=[Point(ALL, scale) for scale in scales],
        dtype=np.float64,
    )
    left = [1 - result.at(ALL, scale)["share"] for scale in scales]
    assert 0 < left[1] < left[0] < 0.05
    np.testing.assert_allclose(left[0] / left[1], 4, rtol=0.1)


def test_sums_are_those_of_numpy(tmp_path: pathlib.Path, double: None) -> None:
    config, base, post = pair("qwen2", tmp_path, 0.2, np.float64)
    draw = np.random.default_rng(1)
    prompts = [draw.integers(3, 128, size).tolist() for size in (9, 40, 12)]
    counted = [draw.random(len(prompt)) < 0.7 for prompt in prompts]
    points = [Point(ALL), Point(ALL, 0.5), Point("mlp"), Point("q_proj")]
    how: Any = {"mesh": decoder_mesh(2), "points": points, "dtype": np.float64}
    trees = jax.tree.map(jnp.asarray, (base, post))
    found = linearise(trees[0], trees[1], config, prompts, counted=counted, **how)
    assert found.tokens.tolist() == [float(each.sum()) for each in counted]
    assert found.continued.tolist() == [float(each[:-1].sum()) for each in counted]

    def logits(params: Any, prompt: list[int]) -> np.ndarray:
        padded = np.zeros((1, 40), np.int32)
        padded[0, : len(prompt)] = prompt
        valid = np.arange(40)[None] < len(prompt)
        out = np.asarray(forward(params, config, padded, valid, dtype=np.float64))
        return out[0, : len(prompt)]

    for k, (part, scale) in enumerate(points):

        def step(path: Any, b: np.ndarray, p: np.ndarray, part=part) -> np.ndarray:
            return p - b if part == ALL or f"'{part}'" in jax.tree_util.keystr(path) else 0 * b

        delta = jax.tree_util.tree_map_with_path(step, base, post)

        def at(s: float, prompt: list[int], delta=delta) -> np.ndarray:
            return logits(jax.tree.map(lambda b, d: b + s * d, base, delta), prompt)

        for i, (prompt, marks) in enumerate(zip(prompts, counted)):
            still, there = at(0, prompt), at(scale, prompt)
            linear = still + scale * (at(1e-4, prompt) - at(-1e-4, prompt)) / 2e-4
            centred = [each - each.mean(-1, keepdims=True) for each in (still, linear, there)]
            log = [scipy.special.log_softmax(each, axis=-1) for each in (still, linear, there)]
            top = [each.argmax(-1) for each in log]
            follows, targets = marks[:-1], np.array(prompt[1:])
            expected = {
                "change": ((centred[2] - centred[0]) ** 2).sum(-1)[marks].sum(),
                "linear": ((centred[1] - centred[0]) ** 2).sum(-1)[marks].sum(),
                "error": ((centred[2] - centred[1]) ** 2).sum(-1)[marks].sum(),
                "kl_base": (np.exp(log[2]) * (log[2] - log[0])).sum(-1)[marks].sum(),
                "kl_linearised": (np.exp(log[2]) * (log[2] - log[1])).sum(-1)[marks].sum(),
                "agree_base": (top[0] == top[2])[marks].sum(),
                "agree_linearised": (top[1] == top[2])[marks].sum(),
                "right_base": (top[0][:-1] == targets)[follows].sum(),
                "right_linearised": (top[1][:-1] == targets)[follows].sum(),
                "right_post": (top[2][:-1] == targets)[follows].sum(),
            }
            for name, value in expected.items():
                # Rounding of the difference quotient: 1e-16 / 1e-4, and h^2 of its own.
                np.testing.assert_allclose(found.sums[name][k, i], value, rtol=1e-5, atol=1e-9)
    row = found.at()
    assert row["share"] == 1 - found.sums["error"][0].sum() / found.sums["change"][0].sum()
    assert 0 < row["cosine"] <= 1
    one_by_one = linearise(
        trees[0], trees[1], config, prompts, counted=counted, batch_bytes=1, **how
    )
    for name, sums in found.sums.items():
        np.testing.assert_allclose(one_by_one.sums[name], sums, rtol=1e-9, atol=1e-12)


def test_what_does_not_change_has_no_share(tmp_path: pathlib.Path) -> None:
    config, base, _ = pair("llama", tmp_path, 0.1, np.float32)
    post = {**base, "norm": {"scale": base["norm"]["scale"] * 1.1}}
    points = [Point(ALL), Point("self_attn"), Point(OTHER)]
    result = linearise(base, post, config, [[5, 6, 7]], mesh=decoder_mesh(1), points=points)
    whole, attention, other = result.figures()
    assert np.isnan(attention["share"])
    assert attention["kl_base"] == attention["kl_linearised"] == 0
    assert whole == {**other, "part": ALL}
    # Logits are linear in the last norm's weights.
    assert whole["share"] == pytest.approx(1, abs=1e-5)
    again = Linearised.from_arrays(result.arrays())
    assert again.points == result.points
    assert str(again.figures()) == str(result.figures())
    for counted, prompts, fault in (
        ([np.zeros(1, bool)], [[5]], "no position counts"),
        (None, [], "a prompt is empty"),
    ):
        with pytest.raises(ValueError, match=fault):
            linearise(base, post, config, prompts, mesh=decoder_mesh(1), counted=counted)
    short = {**base, "norm": {"scale": base["norm"]["scale"][:3]}}
    with pytest.raises(ValueError, match="norm/scale: not of the same shape"):
        linearise(base, short, config, [[5]], mesh=decoder_mesh(1))


def job(out: pathlib.Path, *models: str, **options: Any) -> ProbeJob:
    prompts = str(reference.heldout_path())
    given: Any = {"prompts": prompts, "limit": 3, "linearised": True, "maps": False, "devices": 1}
    return ProbeJob(models=models, out=str(out), **(given | options))


def test_the_probe_linearises_around_its_first_model(tmp_path: pathlib.Path) -> None:
    done = run_probe(job(tmp_path / "out", BASE, INSTRUCT))
    with np.load(tmp_path / "out" / "linearised.npz", allow_pickle=False) as arrays:
        assert {name.partition("/")[0] for name in arrays.files} == {"instruct"}
        assert arrays["instruct/change"].shape == (len(arrays["instruct/parts"]), 3)
    row = done.linearised["instruct"].at()
    assert row["share"] < 0.99
    # Half way the change is more nearly linear.
    assert done.linearised["instruct"].at(ALL, 0.25)["share"] > row["share"]
    assert "of the change of the logits from base is first order" in done.text()
    assert "linearised.npz" in done.text()
    assert check_files(done.out) == {"probe_record"}
    split = run_probe(
        job(tmp_path / "split", BASE, INSTRUCT, devices=2, tensor_parallel=2, limit=3)
    )
    for row, other in zip(
        done.linearised["instruct"].figures(), split.linearised["instruct"].figures()
    ):
        # Float32, added up in another order.
        np.testing.assert_allclose(other["share"], row["share"], rtol=0, atol=2e-3)
    again = run_probe(job(tmp_path / "out", BASE, INSTRUCT))
    assert again.was_finished
    assert again.linearised["instruct"].figures() == done.linearised["instruct"].figures()


def test_models_that_are_not_one_function_are_refused(tmp_path: pathlib.Path) -> None:
    other, renamed = tmp_path / "other", tmp_path / "renamed"
    for copy in (other, renamed):
        shutil.copytree(INSTRUCT, copy)
    config = json.loads((other / "config.json").read_text("utf-8"))
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    tokenizer = json.loads((renamed / "tokenizer.json").read_text("utf-8"))
    vocabulary = tokenizer["model"]["vocab"]
    ids = list(vocabulary.values())
    tokenizer["model"]["vocab"] = dict(zip(vocabulary, ids[1:] + ids[:1]))
    (renamed / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError) as caught:
        run_probe(job(tmp_path / "out", BASE, str(other), str(renamed)))
    assert "rms_norm_eps is 1e-06 in the one and 1e-05 in the other" in str(caught.value)
    assert "renamed: --linearised compares it with base linearised, and their tokenizers" in str(
        caught.value
    )
    with pytest.raises(InputError, match="expected two models"):
        run_probe(job(tmp_path / "out", BASE))
    assert not (tmp_path / "out").exists()
