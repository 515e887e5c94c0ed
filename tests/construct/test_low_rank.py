"""Initialisations and scaling over pytrees, against numpy in float64.

Axis legend: `L` layers, `I` in, `O` out, `K` rank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from svdjax.checkpoint import model_config, param_shapes
from svdjax.construct.low_rank import Scaled, layer_sweep, lora_split, scaled
from svdjax.construct.tree import leaf_at, paths
from svdjax.errors import InputError
from svdjax.spectral import working_precision
from tests.support import tiny

LAYERS, D, F, KV = 3, 16, 24, 8
EPS = float(np.finfo(np.float32).eps)
SHAPES = {
    "self_attn": {"q_proj": (D, D), "k_proj": (D, KV), "o_proj": (D, D)},
    "mlp": {"up_proj": (D, F), "down_proj": (F, D)},
}
PROJECTIONS = [name for module in SHAPES.values() for name in module]


def tree(dtype: Any = np.float32, seed: int = 0) -> dict[str, Any]:
    """A small model of numpy arrays: kernels, one bias, norms and both ends."""
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    layers: dict[str, Any] = {
        module: {name: {"kernel": draw(LAYERS, *shape)} for name, shape in shapes.items()}
        for module, shapes in SHAPES.items()
    }
    layers["self_attn"]["q_proj"]["bias"] = draw(LAYERS, D)
    layers["input_layernorm"] = {"scale": draw(LAYERS, D)}
    return {
        "embed_tokens": {"embedding": draw(32, D)},
        "layers": layers,
        "lm_head": {"kernel": draw(D, 32)},
    }


def path_of(name: str) -> str:
    module = "mlp" if name in SHAPES["mlp"] else "self_attn"
    return f"layers/{module}/{name}/kernel"


def kernel(params: Any, name: str) -> np.ndarray:
    return np.asarray(leaf_at(params, path_of(name)))


def assert_shared_but(params: Any, new: Any, names: Any) -> None:
    """All leaves are the same objects, but for the kernels of `names`, which are not."""
    changed = {path_of(name) for name in names}
    assert list(paths(new)) == list(paths(params))
    for path in paths(params):
        assert (leaf_at(new, path) is leaf_at(params, path)) == (path not in changed), path


def assert_same(params: Any, before: Any) -> None:
    for path in paths(before):
        assert leaf_at(params, path).dtype == leaf_at(before, path).dtype
        assert leaf_at(params, path).tobytes() == leaf_at(before, path).tobytes(), path


# --- splitting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "modules", "names"),
    [
        ("middle", "all", PROJECTIONS),
        *((where, "mlp", list(SHAPES["mlp"])) for where in ("top", "bottom", 2)),
    ],
)
def test_split_agrees_with_numpy(where: str | int, modules: str, names: list[str]) -> None:
    params = tree()
    before = copy.deepcopy(params)
    new, lora = lora_split(params, rank=3, where=where, modules=modules)
    assert_same(params, before)
    assert_shared_but(params, new, names)
    assert (lora.rank, lora.where, lora.layers) == (3, where, (0, 1, 2))
    assert set(lora.factors) == {path_of(name) for name in names}
    for name in names:
        w, residual = kernel(params, name), kernel(new, name)
        a, b = (np.asarray(side) for side in lora.factors[path_of(name)])
        assert a.shape == (LAYERS, w.shape[1], 3)
        assert b.shape == (LAYERS, 3, w.shape[2])
        assert a.dtype == b.dtype == residual.dtype == np.float32
        r = min(w.shape[1:])
        start = {"top": 0, "middle": (r - 3) // 2, "bottom": r - 3}.get(str(where), 2)
        u, s, vt = np.linalg.svd(w.astype(np.float64), full_matrices=False)
        part = slice(start, start + 3)
        taken = (u[:, :, part] * s[:, None, part]) @ vt[:, part]
        # A, B and the residual are rounded once each, to half an eps of their entries.
        atol = 4 * EPS * s.max()
        np.testing.assert_allclose(a @ b, taken, rtol=0, atol=atol)
        np.testing.assert_allclose(residual, w - taken, rtol=0, atol=atol)
        # Both sides carry the square root of the singular values.
        for squares in (np.sum(a**2, axis=1), np.sum(b**2, axis=2)):
            np.testing.assert_allclose(squares, s[:, part], rtol=16 * EPS)
        exact = residual + a.astype(np.float64) @ b.astype(np.float64)
        assert (np.abs(exact - w) <= 0.5001 * EPS * np.abs(residual)).all()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("kind", ["numpy", "jax"])
def test_split_of_some_layers_and_modules(kind: str, dtype: Any) -> None:
    params = tree(dtype)
    for name in ("up_proj", "down_proj"):
        kernel(params, name)[0, 0, 0] = 1e-40  # subnormal in float32, of a layer left alone
    given = jax.tree.map(jnp.asarray, params) if kind == "jax" else params
    new, lora = lora_split(given, rank=2, modules="mlp", layers=iter([2, 1]))
    assert_shared_but(given, new, ["up_proj", "down_proj"])
    assert lora.layers == (1, 2)
    full, all_layers = lora_split(given, rank=2, modules="mlp")
    for name in ("up_proj", "down_proj"):
        wide, residual = kernel(params, name).astype(np.float32), kernel(new, name)
        assert residual.dtype == np.float32
        if kind == "jax" and dtype == np.float64:
            wide[0, 0, 0] = 0  # XLA flushes what it makes narrower
        assert residual[0].tobytes() == wide[0].tobytes()
        np.testing.assert_array_equal(residual[1:], kernel(full, name)[1:])
        for some, all_ in zip(lora.factors[path_of(name)], all_layers.factors[path_of(name)]):
            np.testing.assert_array_equal(some, all_[1:])


@pytest.mark.parametrize("rank", [1, 16])
def test_split_at_the_ends_of_the_range(rank: int) -> None:
    params = tree()
    new, lora = lora_split(params, rank=rank, modules="o_proj|down_proj", where="bottom")
    for path in lora.factors:
        if rank == 16:  # nothing is left
            s = np.linalg.norm(leaf_at(params, path), ord=2, axis=(1, 2)).max()
            assert np.abs(leaf_at(new, path)).max() <= 16 * EPS * s


@pytest.mark.parametrize("factorisation", ["svd_f32", "svd_f64", "gram_f64"])
def test_without_64_bit_types(factorisation: str) -> None:
    options: Any = {"modules": "up_proj", "layers": [0, 2], "factorisation": factorisation}
    for dtype in (np.float32, np.float64):
        params = tree(dtype)
        with jax.enable_x64(False):
            new, lora = lora_split(params, rank=2, **options)
            assert jnp.ones(1).dtype == np.float32
        want, _ = lora_split(params, rank=2, **options)
        np.testing.assert_array_equal(kernel(new, "up_proj"), kernel(want, "up_proj"))
        assert lora.factors[path_of("up_proj")][0].dtype == np.float32


def placed(params: Any, kind: str, mesh: jax.sharding.Mesh) -> Any:
    if kind == "numpy":
        return params
    if kind == "committed":
        return jax.device_put(params, jax.devices()[0])
    whole = jax.NamedSharding(mesh, jax.P())
    return jax.device_put(params, whole)


@pytest.mark.parametrize("layers", [None, [0, 2]])
@pytest.mark.parametrize("kind", ["numpy", "committed", "spread"])
def test_sharded_equals_unsharded(kind: str, layers: Any) -> None:
    params, mesh = tree(), jax.make_mesh((2,), ("layers",))
    given = placed(params, kind, mesh)
    alone = lora_split(params, rank=2, modules="mlp", layers=layers)
    shared = lora_split(given, rank=2, modules="mlp", layers=layers, mesh=mesh)
    assert alone[1].layers == shared[1].layers
    for name in ("up_proj", "down_proj"):
        # Compiled apart, float64 sums may round to the neighbouring float32.
        np.testing.assert_allclose(
            kernel(shared[0], name), kernel(alone[0], name), rtol=EPS, atol=EPS
        )


def test_split_within_jit_equals_that_outside() -> None:
    params = jax.tree.map(jnp.asarray, tree())
    with working_precision("svd_f64"):
        inside = jax.jit(lambda p: lora_split(p, rank=2, modules="mlp", layers=[1])[0])(params)
    outside, _ = lora_split(params, rank=2, modules="mlp", layers=[1])
    for path in paths(params):
        np.testing.assert_allclose(
            leaf_at(inside, path), leaf_at(outside, path), rtol=EPS, atol=EPS
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 9}, "rank 9: layers/self_attn/k_proj/kernel has 8 singular components"),
        ({"rank": 4, "where": 6}, "components 6 to 9: layers/self_attn/k_proj/kernel has 8"),
        ({"rank": 2, "where": "centre"}, "components 'centre': expected top, middle, bottom"),
        ({"rank": 2, "modules": "qk_proj"}, "matches no linear layer.*self_attn.q_proj"),
        ({"rank": 2, "modules": "lm_head"}, "matches no linear layer"),
        ({"rank": 2, "layers": [1, 3]}, "layers: 3 is not one of the 3 layers 0-2"),
        ({"rank": 2, "layers": []}, "layers: none is chosen"),
        ({"rank": 2, "factorisation": "svd_f63"}, "did you mean 'svd_f6?"),
    ],
)
def test_splits_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        lora_split(tree(), **options)


def test_stacks_that_do_not_belong_together() -> None:
    params = tree()
    params["layers"]["mlp"]["up_proj"]["kernel"] = np.zeros((2, D, F), np.float32)
    for call in (lambda: lora_split(params, rank=2), lambda: scaled(params, 2.0)):
        with pytest.raises(InputError, match=r"up_proj/kernel.*\[2, 16, 24\], and \[3, 16, 16\]"):
            call()


# --- scaling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.float64])
@pytest.mark.parametrize("kind", ["numpy", "jax"])
def test_scaled_agrees_with_numpy(kind: str, dtype: Any) -> None:
    params = tree(dtype)
    before = copy.deepcopy(params)
    given = jax.tree.map(jnp.asarray, params) if kind == "jax" else params
    new = scaled(given, 1.4, modules="q_proj|k_proj")
    assert_same(params, before)
    assert_shared_but(given, new, ["q_proj", "k_proj"])
    wide = np.float64 if dtype == np.float64 else np.float32
    for name in ("q_proj", "k_proj"):
        want = (kernel(params, name).astype(wide) * wide(1.4)).astype(dtype)
        assert kernel(new, name).dtype == want.dtype
        assert kernel(new, name).tobytes() == want.tobytes()


def test_scaling_a_kernel_scales_its_singular_values() -> None:
    params = tree()
    new = scaled(params, 1.4, modules="o_proj")
    before, after = (
        np.linalg.svd(kernel(tree_, "o_proj").astype(np.float64)) for tree_ in (params, new)
    )
    np.testing.assert_allclose(after[1], 1.4 * before[1], rtol=1e-5)


def test_scaled_by_projection_and_layer() -> None:
    params = tree()
    by_layer = [0.5, 1.0, 3.0]
    cases: list[tuple[Any, str, dict[str, Any]]] = [
        (by_layer, "mlp", dict.fromkeys(("up_proj", "down_proj"), by_layer)),
        (np.array(by_layer), "up_proj", {"up_proj": by_layer}),
        (
            {"q_proj": 2, "k_proj": by_layer, "o_proj": 1.4, "up_proj": 9.0},
            "self_attn",
            {"q_proj": [2, 2, 2], "k_proj": by_layer, "o_proj": [1.4] * 3},
        ),
    ]
    for factor, modules, want in cases:
        new = scaled(params, factor, modules=modules)
        assert_shared_but(params, new, want)
        for name, factors in want.items():
            expected = kernel(params, name) * np.array(factors, np.float32)[:, None, None]
            np.testing.assert_array_equal(kernel(new, name), expected)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_scaled_leaves_other_layers_their_bits(dtype: Any) -> None:
    params = tree(dtype)
    kernel(params, "up_proj")[0, 0, :3] = (1e-40, -0.0, np.inf)
    new = scaled(params, [2.0, 4.0, 8.0], modules="up_proj", layers=iter([1]))
    old, found = kernel(params, "up_proj"), kernel(new, "up_proj")
    assert found[[0, 2]].tobytes() == old[[0, 2]].tobytes()
    np.testing.assert_array_equal(found[1].astype(np.float32), 4 * old[1].astype(np.float32))


def test_scaled_without_64_bit_types() -> None:
    for dtype in (np.float32, np.float64, ml_dtypes.bfloat16):
        params = tree(dtype)
        with jax.enable_x64(False):
            new = scaled(params, 0.7, layers=[0])
            assert jnp.ones(1).dtype == np.float32
        want = scaled(params, 0.7, layers=[0])
        for name in PROJECTIONS:
            assert kernel(new, name).dtype == dtype
            assert kernel(new, name).tobytes() == kernel(want, name).tobytes()


def test_scaled_keeps_the_sharding() -> None:
    mesh = jax.make_mesh((2,), ("layers",))
    whole = np.random.default_rng(0).standard_normal((4, D, D)).astype(np.float32)
    leaf = jax.device_put(whole, jax.NamedSharding(mesh, jax.P("layers")))
    params = {"layers": {"self_attn": {"o_proj": {"kernel": leaf}}}}
    for layers in (None, [1, 2]):
        new = scaled(params, 2.0, layers=layers)["layers"]["self_attn"]["o_proj"]["kernel"]
        assert new.sharding.is_equivalent_to(leaf.sharding, 3)
        chosen = slice(None) if layers is None else slice(1, 3)
        np.testing.assert_array_equal(np.asarray(new)[chosen], 2 * whole[chosen])


@pytest.mark.parametrize(
    ("factor", "message"),
    [
        (0.0, "factor of q_proj is 0.0, expected a finite number above 0"),
        (-1, "factor of q_proj is -1.0"),
        (np.nan, "factor of q_proj is nan"),
        ([1.0, np.inf, 0.0], "factor of q_proj, layer 1, is inf"),
        ([1.0, 2.0], r"factor of q_proj: .* each of 3 layers, found shape \[2\]"),
        (np.ones((3, 1)), r"found shape \[3, 1\]"),
        ("much", "factor of q_proj: expected a number, .* found 'much'"),
        ([[1.0], 2.0], "factor of q_proj: expected a number"),
        ({"q_proj": 1.4}, "factor: none for k_proj; there are q_proj"),
        ({}, "factor: none for q_proj; there are none"),
        (dict.fromkeys([*PROJECTIONS, "o_prj"], 1.4), "no projection 'o_prj'.*mean 'o_proj'"),
        ({**dict.fromkeys(PROJECTIONS, 1.4), "o_proj": [1.0]}, r"of o_proj: .* shape \[1\]"),
    ],
)
def test_factors_that_do_not_fit(factor: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scaled(tree(), factor)


# --- the sweep over layers ---------------------------------------------------------------------


def test_sweep_scales_one_layer_at_a_time() -> None:
    params = tree()
    before = copy.deepcopy(params)
    sweep = layer_sweep(params, iter([0.5, 2.0]), modules="self_attn", layers=[0, 2])
    assert isinstance(sweep, Iterator)
    seen = list(sweep)
    assert [(step.layer, step.factor) for step in seen] == [(0, 0.5), (0, 2.0), (2, 0.5), (2, 2.0)]
    for step in seen:
        assert_shared_but(params, step.params, ["q_proj", "k_proj", "o_proj"])
        for name in ("q_proj", "k_proj", "o_proj"):
            want = kernel(params, name).copy()
            want[step.layer] *= np.float32(step.factor)
            np.testing.assert_array_equal(kernel(step.params, name), want)
    assert_same(params, before)


def test_sweep_makes_one_model_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(params: Any, factor: Any, **options: Any) -> Any:
        calls.append((factor, *options["layers"]))
        return scaled(params, factor, **options)

    monkeypatch.setattr("svdjax.construct.low_rank.scaled", counted)
    sweep = layer_sweep(tree(), [2.0, 3.0])
    assert calls == []
    assert isinstance(next(sweep), Scaled)
    assert calls == [(2.0, 0)]
    assert len(list(sweep)) == 5
    assert calls[-1] == (3.0, 2)


@pytest.mark.parametrize(
    ("factors", "options", "message"),
    [
        ([1.0, 0.0], {}, "factor of the sweep is 0.0"),
        ([np.nan], {}, "factor of the sweep is nan"),
        ([], {}, "factors of the sweep: none is given"),
        ([2.0], {"layers": [5]}, "layers: 5 is not one of the 3 layers"),
        ([2.0], {"modules": "qkv"}, "matches no linear layer"),
    ],
)
def test_sweep_is_checked_before_it_begins(factors: Any, options: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layer_sweep(tree(), factors, **options)


@pytest.mark.parametrize("family", tiny.LAYOUTS)
def test_every_family(family: str) -> None:
    config = model_config(tiny.tiny_config(family))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape).astype(leaf.dtype), param_shapes(config)
    )
    names = {path for path in paths(params) if path.startswith("layers/") and "_proj/k" in path}
    assert len(names) == (4 if family == "phi3" else 7)
    _, lora = lora_split(params, rank=2)
    assert set(lora.factors) == names
    new = scaled(params, 1.4)
    for path in paths(params):
        assert (leaf_at(new, path) is leaf_at(params, path)) == (path not in names)
