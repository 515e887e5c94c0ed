"""Constructed checkpoints: right values, everything else bit for bit, loaded by transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors import safe_open

import svdjax
from svdjax.constructions import RECIPES
from tests.construct import harness
from tests.support import tiny

FAMILIES = ("qwen2", "llama", "mistral", "gemma2", "phi3")
# Every family, every equation, every kind of choice of modules and layers, at least once.
CASES = (
    ("qwen2", "eq9", {"alpha": "auto_raw"}),
    ("llama", "eq9", {"alpha": "1.25", "layers": "0,2-"}),
    ("gemma2", "eq14", {}),
    ("qwen2", "eq11", {"modules": "self_attn"}),
    ("llama", "eq16", {"modules": "mlp"}),
    ("mistral", "eq11", {"modules": r"\.(k|down)_proj$"}),
    ("phi3", "eq16", {"modules": "all", "layers": "1"}),
    ("phi3", "eq10", {"modules": "self_attn", "signs": "aligned"}),
    ("gemma2", "eq15", {"modules": "mlp", "signs": "aligned"}),
    ("mistral", "eq12", {"modules": "o_proj"}),
)


def chosen(options):
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


def build(models, family, equation, options, out, **more):
    base, post, other = models(family)
    given = options | more
    if equation == "eq12":
        given["other"] = str(other)
    outcome = svdjax.construct_checkpoint(base, post, equation, out, devices=1, **given)
    assert outcome.path == out
    partner = other if equation == "eq12" else base
    alpha = None
    if equation == "eq9":
        alpha = harness.means(base, post)
        if options.get("alpha") != "auto_raw":
            alpha = dict.fromkeys(alpha, float(options["alpha"]))
    new = harness.expected(
        partner,
        post,
        equation,
        chosen(options),
        alpha=alpha,
        aligned=RECIPES[equation].signed,
    )
    return outcome, post, new


@pytest.mark.parametrize(("family", "equation", "options"), CASES)
def test_logits_are_those_of_the_equations(family, equation, options, models, tmp_path):
    torch = pytest.importorskip("torch")
    from tests.model.test_transformers import reference_logits

    _, post, new = build(models, family, equation, options, tmp_path / "out", dtype="float32")
    assert new
    wanted = harness.in_float32(tmp_path / "wanted", post, new)
    tokens = np.random.default_rng(0).integers(3, 60, (2, 24)).astype(np.int32)
    with torch.no_grad():
        found = reference_logits(tmp_path / "out", tokens)
        expected = reference_logits(wanted, tokens)
        before = reference_logits(post, tokens)
    assert np.abs(found - expected).max() <= 1e-3
    # The construction is no small matter.
    assert np.abs(found - before).max() > 0.03


@pytest.mark.parametrize(("family", "equation", "options"), CASES)
def test_values_are_rounded_and_the_rest_is_untouched(family, equation, options, models, tmp_path):
    outcome, post, new = build(models, family, equation, options, tmp_path / "out")
    before, after = tiny.read_tensors(post), tiny.read_tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert (value.shape, value.dtype) == (before[name].shape, before[name].dtype)
        if name not in new:
            assert value.tobytes() == before[name].tobytes(), name
            continue
        eps = {2: 2**-8, 4: 2**-24}[value.dtype.itemsize]
        eps = 2**-11 if value.dtype == np.float16 else eps
        wanted = new[name]
        # Half a unit in the last place; vectors of gapped random matrices are good to 1e-11.
        np.testing.assert_allclose(value.astype(np.float64), wanted, rtol=1.01 * eps, atol=2e-7)
    squares: dict[str, np.ndarray] = {}
    for name in new:
        old, now = before[name].astype(np.float64), after[name].astype(np.float64)
        pair = np.array([np.sum((now - old) ** 2), np.sum(old**2)])
        squares[name.split(".")[4]] = squares.get(name.split(".")[4], np.zeros(2)) + pair
    assert set(outcome.changes) == set(squares)
    for name, change in outcome.changes.items():
        wanted = np.sqrt(squares[name][0] / squares[name][1])
        assert change.change == pytest.approx(wanted, rel=1e-5)
        card = (tmp_path / "out" / "README.md").read_text("utf-8")
        assert f"| {name} | {change.layers} | {change.change:.4g} |" in card


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral"])
def test_the_layout_is_that_of_post(family, models, tmp_path):
    _, post, _ = models(family)
    out = tmp_path / "out"
    build(models, family, "eq14", {}, out)
    names = {path.name for path in post.iterdir()}
    assert {path.name for path in out.iterdir()} == names | {"README.md"}
    for file in post.glob("*.safetensors"):
        with safe_open(file, "numpy") as one, safe_open(out / file.name, "numpy") as two:
            assert one.offset_keys() == two.offset_keys()
        assert file.stat().st_size <= (out / file.name).stat().st_size + 64
    index = "model.safetensors.index.json"
    if (post / index).exists():
        assert json.loads((post / index).read_text()) == json.loads((out / index).read_text())
    assert json.loads((post / "config.json").read_text()) == json.loads(
        (out / "config.json").read_text()
    )


def test_what_belongs_to_a_model_comes_along_and_code_does_not(models, tmp_path):
    base, post, _ = models("phi3")
    mine = tmp_path / "post"
    mine.mkdir()
    for path in post.iterdir():
        (mine / path.name).write_bytes(path.read_bytes())
    files = harness.companions(mine)
    config = json.loads((mine / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_odd.Odd"}
    (mine / "config.json").write_text(json.dumps(config))
    svdjax.construct_checkpoint(base, mine, "eq11", tmp_path / "out", modules="o_proj")
    for name, text in files.items():
        assert (tmp_path / "out" / name).read_text() == text
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*files, "README.md", "config.json", "model.safetensors"}
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    for word in ("eq. 11", RECIPES["eq11"].formula, "o_proj", str(base), str(mine), "0..3"):
        assert word in card, word


def test_alpha_from_a_file_and_rounded(models, tmp_path):
    base, post, _ = models("llama")
    means = harness.means(base, post)
    outcome = svdjax.construct_checkpoint(base, post, "eq9", tmp_path / "auto")
    assert {k: c.alpha for k, c in outcome.changes.items()} == {
        k: pytest.approx(round(v, 1)) for k, v in means.items()
    }
    given = {name: 1 + 0.1 * i for i, name in enumerate(means)}
    (tmp_path / "alpha.json").write_text(json.dumps(given))
    outcome = svdjax.construct_checkpoint(
        base, post, "eq9", tmp_path / "file", alpha=tmp_path / "alpha.json", dtype="float32"
    )
    assert {k: c.alpha for k, c in outcome.changes.items()} == given
    new = harness.expected(base, post, "eq9", chosen({}), alpha=given)
    found = tiny.read_tensors(tmp_path / "file")
    for name, value in new.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6)


def test_alpha_is_of_all_layers_whatever_layers_are_edited(models, tmp_path):
    base, post, _ = models("llama")
    outcome = svdjax.construct_checkpoint(
        base, post, "eq9", tmp_path / "out", alpha="auto_raw", layers="1"
    )
    for name, mean in harness.means(base, post).items():
        assert outcome.changes[name].alpha == pytest.approx(mean, rel=1e-9)
        assert outcome.changes[name].layers == 1


def test_a_cache_of_factors_changes_nothing(models, tmp_path):
    base, post, other = models("llama")
    how = {"modules": "self_attn", "factor_cache": str(tmp_path / "cache")}
    plain = svdjax.construct_checkpoint(
        base, post, "eq10", tmp_path / "plain", modules="self_attn", signs="aligned"
    )
    for number in range(2):
        out = tmp_path / f"out{number}"
        svdjax.construct_checkpoint(base, post, "eq10", out, signs="aligned", **how)
        found, wanted = tiny.read_tensors(out), tiny.read_tensors(plain.path)
        for name, value in wanted.items():
            # Compiled in other pieces, so that sums may round otherwise.
            np.testing.assert_allclose(found[name], value, rtol=1e-6, atol=1e-7)
    entries = sorted((tmp_path / "cache").glob("svdjax-*"))
    assert len(entries) == 2 * 4
    assert harness.bits(tmp_path / "out0") == harness.bits(tmp_path / "out1")
    stamp = {path: path.stat().st_ino for path in entries}
    svdjax.construct_checkpoint(base, other, "eq15", tmp_path / "more", **how)
    # The base's factors serve again; the other post's are new.
    assert {p: p.stat().st_ino for p in entries} == stamp
    assert len(list((tmp_path / "cache").glob("svdjax-*"))) == 3 * 4


def test_many_groups_and_two_devices_give_the_same(models, tmp_path):
    base, post, _ = models("qwen2")
    one = svdjax.construct_checkpoint(base, post, "eq11", tmp_path / "a", modules="mlp", devices=1)
    two = svdjax.construct_checkpoint(
        base, post, "eq11", tmp_path / "b", modules="mlp", devices=2, group_bytes=1
    )
    assert one.changes.keys() == two.changes.keys()
    for name, change in one.changes.items():
        assert two.changes[name].change == pytest.approx(change.change, rel=1e-6)
    mine, theirs = tiny.read_tensors(one.path), tiny.read_tensors(two.path)
    for name, value in mine.items():
        difference = np.abs(value.astype(np.float64) - theirs[name].astype(np.float64))
        # Rounded to bf16 from sums in another order: at most one unit, and seldom.
        assert np.all(difference <= 2**-7 * np.abs(value.astype(np.float64)))
        assert np.mean(difference > 0) < 0.01
