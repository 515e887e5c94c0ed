"""The constructions over whole pytrees: what is edited, what is shared, against the equations."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from svdjax.checkpoint import load_params, model_config, open_checkpoint, param_shapes
from svdjax.construct.tree import alphas, construct, kernels, leaf_at, paths
from svdjax.errors import InputError
from tests.spectral import reference
from tests.support import tiny

FAMILIES = ("qwen2", "llama", "mistral", "gemma3_text", "phi3")


def load(path) -> Any:
    with open_checkpoint(path) as checkpoint:
        return load_params(checkpoint, model_config(path))


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """`trees(family)`: parameters of a base and of a post model."""
    made: dict[str, Any] = {}

    def make(family: str) -> tuple[Any, Any]:
        if family not in made:
            root = tmp_path_factory.mktemp(family)
            # With as many heads for keys as for queries, heads of 24 give shapes that MLPs have.
            heads = 4 if family in ("mistral", "gemma3_text") else 2
            wide: dict[str, Any] = {"num_key_value_heads": heads}
            base = tiny.make_checkpoint(root / "base", family, dtype="float32", seed=21, **wide)
            made[family] = load(base), load(tiny.perturb(base, root / "post", seed=22))
        return made[family]

    return make


def check(new, base, post, name, edited, layers=None, **options) -> None:
    """Chosen leaves are those of the equations, all others the same objects."""
    assert list(paths(new)) == list(paths(post))
    for path in paths(post):
        leaf = leaf_at(post, path)
        if path not in edited:
            assert leaf_at(new, path) is leaf
            continue
        found = leaf_at(new, path)
        assert (found.shape, found.dtype) == (leaf.shape, leaf.dtype)
        for layer in range(len(leaf)):
            if layers is not None and layer not in layers:
                np.testing.assert_array_equal(found[layer], leaf[layer])
                continue
            wanted = reference.constructed(name, leaf_at(base, path)[layer], leaf[layer], **options)
            # Rounded to float32.
            np.testing.assert_allclose(found[layer], wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, trees):
    base, post = trees(family)
    before = jax.tree.map(np.array, post)
    every = kernels(post)
    assert all("embed" not in path and "lm_head" not in path for path in every)
    new = construct(base, post, "eq9", alpha=1.2)
    check(new, base, post, "eq9", every, alpha=1.2)
    outputs = ["layers/self_attn/o_proj/kernel"]
    new = construct(base, post, "eq11", modules="o_proj", layers=[1])
    check(new, base, post, "eq11", outputs, layers=(1,))
    for mine, theirs in zip(jax.tree.leaves(before), jax.tree.leaves(post)):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    ("modules", "projections"),
    [
        ("mlp", ["gate_proj", "up_proj", "down_proj"]),
        ("o_proj", ["o_proj"]),
        (r"(q|k)_proj$", ["q_proj", "k_proj"]),
        ("^mlp.up", ["up_proj"]),
    ],
)
def test_modules(modules, projections, trees):
    base, post = trees("llama")
    # As for every family above: with the same programs.
    new = construct(base, post, "eq9", modules=modules, alpha=1.2)
    edited = [path for path in kernels(post) if path.split("/")[-2] in projections]
    assert len(edited) == len(projections)
    check(new, base, post, "eq9", edited, alpha=1.2)


def test_restored_left_vectors(trees):
    base, post = trees("llama")
    new = construct(base, post, "eq16", modules="o_proj")
    check(new, base, post, "eq16", ["layers/self_attn/o_proj/kernel"])


def test_signs_and_devices(trees):
    from svdjax.engine.devices import layer_mesh

    base, post = trees("llama")
    new = construct(base, post, "eq10", modules="o_proj", signs="aligned", mesh=layer_mesh(2))
    path = "layers/self_attn/o_proj/kernel"
    check(new, base, post, "eq10", [path], aligned=True)


def test_some_layers_of_placed_arrays_on_a_mesh(trees):
    from svdjax.engine.devices import layer_mesh

    base, post = trees("llama")
    one, two = (jax.tree.map(jnp.asarray, tree) for tree in (base, post))
    new = construct(one, two, "eq11", modules="o_proj", layers=iter([0, 2]), mesh=layer_mesh(2))
    path = "layers/self_attn/o_proj/kernel"
    check(new, one, two, "eq11", [path], layers=(0, 2))


def test_alphas_are_those_of_table_4(trees):
    base, post = trees("qwen2")
    found, rounded = alphas(base, post, rounded=False), alphas(base, post)
    for path in kernels(post):
        ratios = []
        for one, other in zip(leaf_at(base, path), leaf_at(post, path)):
            s = [np.linalg.svd(w.astype(np.float64), compute_uv=False) for w in (one, other)]
            top = int(0.9 * len(s[0]))
            ratios.append(s[1][:top] / s[0][:top])
        name = path.split("/")[-2]
        assert found[name] == pytest.approx(np.mean(ratios), rel=1e-9)
        assert rounded[name] == round(float(np.mean(ratios)), 1)
    new = construct(base, post, "eq9", modules="k_proj", alpha=found)
    path = "layers/self_attn/k_proj/kernel"
    check(new, base, post, "eq9", [path], alpha=found["k_proj"])


def test_other_dtypes_and_arrays(trees):
    base, post = trees("llama")
    given = jax.tree.map(lambda leaf: jnp.asarray(leaf.astype(jnp.bfloat16)), post)
    new = construct(base, given, "eq14", modules="k_proj|up_proj")
    assert {leaf.dtype for leaf in jax.tree.leaves(new)} == {jnp.dtype(jnp.bfloat16)}
    wide = construct(base, given, "eq14", dtype="float32", modules="k_proj", layers=[0])
    assert leaf_at(wide, "layers/self_attn/k_proj/kernel").dtype == np.float32


def test_it_is_traceable(trees):
    base, post = trees("llama")
    how: Any = {"construction": "eq9", "modules": "v_proj", "alpha": 1.2}
    traced = jax.jit(lambda b, p: construct(b, p, **how))(base, post)
    path = "layers/self_attn/v_proj/kernel"
    eager = construct(base, post, **how)
    np.testing.assert_allclose(leaf_at(traced, path), leaf_at(eager, path), atol=1e-6)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("qwen2", (48, 5120, 13824, 40, 8, 152064)),
        ("llama", (80, 8192, 28672, 64, 8, 128256)),
    ],
)
def test_large_models_are_only_described(family, sizes):
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    names += ("num_key_value_heads", "vocab_size")
    raw = tiny.tiny_config(family, **dict(zip(names, sizes)), rope_scaling=None)
    shapes = param_shapes(model_config(raw), jnp.bfloat16)
    new = jax.eval_shape(lambda b, p: construct(b, p, "eq16", modules="all"), shapes, shapes)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), new) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), shapes
    )


def test_refusals(trees):
    base, post = trees("llama")
    other, _ = trees("phi3")
    for call, words in (
        (lambda: construct(base, post, "eq8"), "eq8"),
        (lambda: construct(base, post, "eq10"), "modules is not given"),
        (lambda: construct(base, post, "eq11", modules="attn"), "matches no linear layer"),
        (lambda: construct(base, post, "eq11", modules="mlp", layers=[99]), "99 is not one of"),
        (lambda: construct(base, post, "eq9", alpha={"q_proj": 1.0}), "no number for"),
        (lambda: construct(other, post, "eq14"), "q_proj/kernel: no such leaf"),
        (lambda: construct(base, post, "eq14", factorisation="qr"), "'qr'"),
    ):
        with pytest.raises(InputError, match=words):
            call()
