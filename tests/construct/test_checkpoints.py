"""Constructed checkpoints: right values, everything else bit for bit, loaded by transformers."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open

from svdjax.construct.edit import ConstructOutcome
from svdjax.construct.recipes import RECIPES
from tests.construct import harness
from tests.support import tiny

# Every layout, every equation, every kind of choice of modules and layers, at least once.
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("qwen2", "eq9", {"alpha": "auto_raw", "modules": "self_attn"}),
    ("llama", "eq9", {"alpha": "1.25", "modules": "mlp", "layers": "0,2-"}),
    ("gemma3_text", "eq14", {}),
    ("qwen2", "eq11", {"modules": "self_attn"}),
    ("llama", "eq16", {"modules": "mlp"}),
    ("mistral", "eq11", {"modules": r"\.(k|down)_proj$"}),
    ("phi3", "eq16", {"modules": "all", "layers": "1"}),
    ("phi3", "eq10", {"modules": "self_attn", "signs": "aligned"}),
    ("gemma2", "eq15", {"modules": "mlp", "signs": "aligned"}),
    ("mistral", "eq12", {"modules": "o_proj"}),
)
# Those that are made once more as post is stored: bf16 in three files, f32 in two, f16 in one.
STORED = (1, 3, 7, 8, 9)


@dataclass(frozen=True)
class Built:
    """A constructed checkpoint, what it was made of, and what it should hold [out, in]."""

    outcome: ConstructOutcome
    post: pathlib.Path
    partner: pathlib.Path
    new: dict[str, np.ndarray]

    @property
    def path(self) -> pathlib.Path:
        return self.outcome.path


def chosen(options: dict[str, str]) -> Callable[[str, str, int], bool]:
    """The choice that the flags make, said once more."""
    modules, layers = options.get("modules", "all"), options.get("layers", "")
    numbers = {"": range(99), "0,2-": (0, *range(2, 99)), "1": (1,)}[layers]

    def choose(module: str, projection: str, layer: int) -> bool:
        if layer not in numbers:
            return False
        if modules == r"\.(k|down)_proj$":
            return projection in ("k_proj", "down_proj")
        return modules in ("all", module, projection)

    return choose


@pytest.fixture(scope="module")
def built(models, tmp_path_factory):
    """`built(number of a case, dtype)`: each is made once."""
    made: dict[tuple[int, str], Built] = {}

    def make(number: int, dtype: str = "") -> Built:
        if (number, dtype) not in made:
            family, equation, options = CASES[number]
            base, post, other = models(family)
            given: Any = options | ({"other": str(other)} if equation == "eq12" else {})
            out = tmp_path_factory.mktemp("built") / "out"
            outcome = harness.run(base, post, equation, out, dtype=dtype, **given)
            assert outcome.path == out
            partner, alpha = other if equation == "eq12" else base, None
            if equation == "eq9":
                alpha = harness.means(base, post)
                if options["alpha"] != "auto_raw":
                    alpha = dict.fromkeys(alpha, float(options["alpha"]))
            aligned = RECIPES[equation].signed
            how: Any = {"alpha": alpha, "aligned": aligned}
            new = harness.expected(partner, post, equation, chosen(options), **how)
            assert new
            made[number, dtype] = Built(outcome, post, partner, new)
        return made[number, dtype]

    return make


def rounded(value: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """float64 values rounded to nearest even, in float64."""
    digits, least = {"bfloat16": (8, -126), "float16": (11, -14), "float32": (24, -126)}[dtype.name]
    _, exponent = np.frexp(value)  # the value is below 2**exponent
    unit = np.ldexp(1.0, np.maximum(exponent, least + 1) - digits)
    return np.rint(value / unit) * unit


def assert_rounded(found: np.ndarray, wanted: np.ndarray) -> None:
    """`found` is `wanted` rounded to nearest even, unless a tie is too near to tell."""
    # The kernels round by way of float32 (half of 2**-23), and two LAPACK routines may differ by
    # 1e-10 where the gaps of singular values are 1e-4.
    slack = 2**-23 * np.abs(wanted) + 1e-10
    below, above = (rounded(wanted + sign * slack, found.dtype) for sign in (-1, 1))
    value = found.astype(np.float64)
    assert np.all((below <= value) & (value <= above))
    if found.dtype.itemsize == 2:
        # So few values can be that near: 2 * 2**-23 of 2**-11 of each, with some for small ones.
        assert np.mean(below != above) < 2e-3


@pytest.mark.parametrize("number", range(len(CASES)))
def test_logits_are_those_of_the_equations(number, built, tmp_path):
    torch = pytest.importorskip("torch")
    from tests.model.test_transformers import reference_logits

    made = built(number, "float32")
    wanted = harness.in_float32(tmp_path / "wanted", made.post, made.new)
    tokens = np.random.default_rng(0).integers(3, 60, (2, 24)).astype(np.int32)
    with torch.no_grad():
        found = reference_logits(made.path, tokens)
        expected = reference_logits(wanted, tokens)
        before = reference_logits(made.post, tokens)
    assert np.abs(found - expected).max() <= 1e-3
    # The construction is no small matter.
    assert np.abs(found - before).max() > 0.03


@pytest.mark.parametrize("number", range(len(CASES)))
def test_float32_is_exact_and_the_rest_is_that_of_post(number, built):
    made = built(number, "float32")
    before, after = tiny.read_tensors(made.post), tiny.read_tensors(made.path)
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert value.dtype == np.float32
        if name in made.new:
            assert_rounded(value, made.new[name])
        else:
            np.testing.assert_array_equal(value, before[name].astype(np.float32), err_msg=name)
    config = json.loads((made.path / "config.json").read_text())
    original = json.loads((made.post / "config.json").read_text())
    (key,) = {"dtype", "torch_dtype"} & original.keys()
    assert config == original | {key: "float32"}


@pytest.mark.parametrize("number", STORED)
def test_values_are_rounded_to_nearest_even_and_the_rest_is_untouched(number, built):
    made = built(number)
    before, after = tiny.read_tensors(made.post), tiny.read_tensors(made.path)
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert (value.shape, value.dtype) == (before[name].shape, before[name].dtype)
        if name in made.new:
            assert_rounded(value, made.new[name])
        else:
            assert value.tobytes() == before[name].tobytes(), name


@pytest.mark.parametrize("number", STORED)
def test_the_layout_is_that_of_post(number, built):
    made = built(number)
    names = {path.name for path in made.post.iterdir()}
    assert {path.name for path in made.path.iterdir()} == names | {"README.md"}
    for file in made.post.glob("*.safetensors"):
        with safe_open(file, "numpy") as one, safe_open(made.path / file.name, "numpy") as two:
            assert one.offset_keys() == two.offset_keys()
            assert two.metadata() == {"format": "pt"}
    for name in ("config.json", harness.INDEX):
        if (made.post / name).exists():
            texts = [(folder / name).read_text() for folder in (made.post, made.path)]
            assert json.loads(texts[0]) == json.loads(texts[1])


def test_alpha_from_a_file_and_rounded(models, tmp_path):
    base, post, _ = models("llama")
    means = harness.means(base, post)
    attention = ("q_proj", "k_proj", "v_proj", "o_proj")
    how: Any = {"modules": "self_attn"}
    outcome = harness.run(base, post, "eq9", tmp_path / "auto", **how)
    assert {k: c.alpha for k, c in outcome.changes.items()} == {
        k: pytest.approx(round(means[k], 1)) for k in attention
    }
    given = {name: 1 + 0.1 * i for i, name in enumerate(attention)}
    (tmp_path / "alpha.json").write_text(json.dumps(given))
    how["alpha"] = str(tmp_path / "alpha.json")
    outcome = harness.run(base, post, "eq9", tmp_path / "file", **how)
    assert {k: c.alpha for k, c in outcome.changes.items()} == given
    new = harness.expected(base, post, "eq9", chosen(how), alpha=given)
    found = tiny.read_tensors(tmp_path / "file")
    for name, value in new.items():
        assert_rounded(found[name], value)


def test_alpha_is_of_all_layers_whatever_layers_are_edited(models, tmp_path):
    base, post, _ = models("llama")
    how: Any = {"alpha": "auto_raw", "layers": "1", "modules": "self_attn"}
    outcome = harness.run(base, post, "eq9", tmp_path / "out", **how)
    means = harness.means(base, post)
    assert len(outcome.changes) == 4
    for name, change in outcome.changes.items():
        assert change.alpha == pytest.approx(means[name], rel=1e-9)
        assert change.layers == 1


def test_many_groups_and_two_devices_give_the_same(models, tmp_path):
    base, post, _ = models("qwen2")
    how: Any = {"modules": "o_proj", "layers": "0-2"}
    one = harness.run(base, post, "eq11", tmp_path / "a", **how)
    two = harness.run(base, post, "eq11", tmp_path / "b", group_bytes=1, **(how | {"devices": 2}))
    assert one.changes.keys() == two.changes.keys()
    for name, change in one.changes.items():
        assert two.changes[name].change == pytest.approx(change.change, rel=1e-6)
    mine, theirs = tiny.read_tensors(one.path), tiny.read_tensors(two.path)
    for name, value in mine.items():
        difference = np.abs(value.astype(np.float64) - theirs[name].astype(np.float64))
        # Rounded to bf16 from sums in another order: at most one unit, and seldom.
        assert np.all(difference <= 2**-7 * np.abs(value.astype(np.float64)))
        assert np.mean(difference > 0) < 0.01
