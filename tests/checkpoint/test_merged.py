"""Adapters merged as they are read: against the equation in float64, and against PEFT."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from svdjax.checkpoint import (
    Checkpoint,
    MergedCheckpoint,
    input_digest,
    load_params,
    model_config,
    open_checkpoint,
    patterns,
    tensor_change,
)
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.errors import InputError
from svdjax.text.chat import chat_model
from tests.checkpoint.test_adapter import causal_model, import_peft
from tests.support import tiny
from tests.support.adapters import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    edit,
    edit_tensors,
    make_adapter,
    merged_by_hand,
)

# One rounding to the storage dtype (half a unit of it), and the float32 product and sum before it:
# K + 2 = 6 roundings of 2^-24, at sizes up to a few times the result where they cancel.
ROUNDING = {"float32": 0.0, "bfloat16": 2.0**-8, "float16": 2.0**-11}
PRODUCT = 6 * 2.0**-24
Q = "model__layers__0__self_attn__q_proj__"


def opened(adapter: pathlib.Path, base: pathlib.Path) -> MergedCheckpoint:
    found = open_checkpoint(adapter, lambda: open_checkpoint(base))
    assert isinstance(found, MergedCheckpoint)
    return found


def agree(found: Checkpoint, wanted: dict[str, np.ndarray], dtype: str) -> None:
    for name, value in wanted.items():
        stored = found.read(name)
        assert stored.dtype == np.dtype(tiny.DTYPES[dtype])
        size = np.abs(value) * ROUNDING[dtype] + np.abs(value).max() * PRODUCT
        assert (np.abs(stored.astype(np.float64) - value) <= size).all(), name


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("base")
    return tiny.make_checkpoint(root / "llama", "llama", seed=3, attention_bias=True)


# --- the equation ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", tiny.DTYPES)
def test_is_the_equation(tmp_path: pathlib.Path, dtype: str) -> None:
    base = tiny.make_checkpoint(tmp_path / "base", "mistral", dtype=dtype, seed=1, shards=3)
    adapter = make_adapter(tmp_path / "adapter", base, lora_alpha=6)
    found = opened(adapter, base)
    agree(found, merged_by_hand(base, adapter, 1.5), dtype)
    assert found.names == open_checkpoint(base).names
    assert len(found.changed) == 8
    assert all(found.where(name) == adapter / WEIGHTS for name in found.changed)
    untouched = "model.layers.0.mlp.up_proj.weight"
    assert found.stored(untouched)
    assert found.where(untouched).parent == base


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({"lora_alpha": 6, "use_rslora": True}, 6 / 2),
        ({"lora_alpha": 8, "alpha_pattern": {"down_proj": 2}}, {"q_proj": 2.0, "down_proj": 0.5}),
        ({"r": 9, "rank_pattern": {r"layers\.\d.self_attn.q_proj": 4, "mlp.down_proj": 4}}, 1.0),
        ({"r": 9, "rank_pattern": {"^model.layers.*": 4}, "use_rslora": True}, 4 / 2),
        ({"target_modules": r".*\.(self_attn\.q_proj|mlp\.down_proj)"}, 1.0),
        ({"target_modules": None}, 1.0),
        ({"fan_in_fan_out": True}, 1.0),  # PEFT sets it aside for nn.Linear, which all of ours are
    ],
)
def test_what_the_configuration_scales(
    tmp_path: pathlib.Path, llama: pathlib.Path, config: dict[str, Any], scaling: Any
) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama)
    edit(adapter, **config)
    agree(opened(adapter, llama), merged_by_hand(llama, adapter, scaling), "bfloat16")


def test_rows_are_those_of_the_whole(
    tmp_path: pathlib.Path, llama: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_change, "ROWS", 10)
    found = opened(make_adapter(tmp_path / "adapter", llama), llama)
    name = "model.layers.1.mlp.down_proj.weight"
    whole = found.read(name)
    assert whole.shape == (64, 96)
    for start, stop in ((0, 64), (3, 7), (9, 31), (60, 64), (60, 99), (5, 5)):
        np.testing.assert_array_equal(found.read(name, (start, stop)), whole[start:stop])


def test_whole_tensors_take_the_place_of_the_base_s(
    tmp_path: pathlib.Path, llama: pathlib.Path
) -> None:
    adapter = make_adapter(
        tmp_path / "adapter", llama, bias="all", modules_to_save=["lm_head", "norm"]
    )
    rng = np.random.default_rng(0)
    given = {
        "lm_head.weight": rng.standard_normal((128, 64)).astype(np.float32),
        "model.norm.weight": rng.standard_normal(64).astype(ml_dtypes.bfloat16),
        "model.layers.2.input_layernorm.weight": rng.standard_normal(64).astype(np.float32),
        "model.layers.0.self_attn.q_proj.base_layer.bias": np.ones(64, np.float32),
        "model.layers.0.self_attn.k_proj.bias": np.ones(32, np.float32),
    }
    edit_tensors(adapter, **{name.replace(".", "__"): value for name, value in given.items()})
    found = opened(adapter, llama)
    for name, value in given.items():
        stored = found.read(name.replace("base_layer.", ""))
        np.testing.assert_array_equal(stored, value.astype(ml_dtypes.bfloat16))
    assert (found.read("lm_head.weight", (3, 9)) == found.read("lm_head.weight")[3:9]).all()
    assert not found.stored("lm_head.weight")


def test_an_unknown_architecture_may_store_in_by_out(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    weights = {"h.0.c_attn.weight": rng.standard_normal((6, 18)).astype(np.float32)}
    base = tiny.write_checkpoint(tmp_path / "base", {"model_type": "gpt2"}, weights)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 6), (18, 2)))
    names = [f"{PREFIX}h.0.c_attn.lora_{side}.weight" for side in "AB"]
    save_file(dict(zip(names, (a, b))), adapter / WEIGHTS)
    about = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["c_attn"]}
    (adapter / CONFIG).write_text(json.dumps(about | {"fan_in_fan_out": True}))
    wanted = weights["h.0.c_attn.weight"].astype(np.float64) + (b.astype(np.float64) @ a).T
    agree(opened(adapter, base), {"h.0.c_attn.weight": wanted}, "float32")


# --- PEFT --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("family", "dtype"), [("qwen2", "bfloat16"), ("phi3", "float16")])
def test_is_what_peft_merges_and_saves(tmp_path: pathlib.Path, family: str, dtype: str) -> None:
    peft, torch = import_peft(), pytest.importorskip("torch")
    base = tiny.make_checkpoint(tmp_path / "base", family, dtype=dtype, seed=3)
    model = causal_model(base).to(getattr(torch, dtype))
    config = peft.LoraConfig(
        r=4,
        lora_alpha=7,
        use_rslora=True,
        target_modules="all-linear",
        rank_pattern={"layers.1.mlp.down_proj": 2},
        alpha_pattern={r".*o_proj": 3},
        bias="all",
        modules_to_save=["norm"],
    )
    adapted = peft.get_peft_model(model, config)
    draw = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=draw)
            parameter.data += 0.3 * noise.to(parameter.dtype)
    adapted.save_pretrained(tmp_path / "adapter")
    fresh = causal_model(base).to(getattr(torch, dtype))
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    found, wanted = opened(tmp_path / "adapter", base), tiny.read_tensors(tmp_path / "merged")
    assert set(found.names) == wanted.keys()
    different = 0
    for name in found.names:
        ours, theirs = found.read(name), wanted[name]
        assert ours.dtype == theirs.dtype
        # The order of the sums in a float32 product is the library's; rounding hides nearly all.
        ulps = np.abs(ours.view(np.int16).astype(int) - theirs.view(np.int16).astype(int))
        assert ulps.max() <= 1, name
        different += np.count_nonzero(ulps)
    assert different <= 1e-3 * sum(value.size for value in wanted.values())


# --- what is above does not notice -------------------------------------------------------------


def test_parameters_chat_and_copies(tmp_path: pathlib.Path) -> None:
    from svdjax import reference

    base = reference.path("instruct")
    adapter = make_adapter(tmp_path / "adapter", base)
    found = open_checkpoint(adapter)  # by the base that it names
    assert isinstance(found, MergedCheckpoint)
    config = model_config(found)
    params = load_params(found, config, np.float32)
    value = merged_by_hand(base, adapter)["model.layers.1.self_attn.q_proj.weight"]
    kernel = params["layers"]["self_attn"]["q_proj"]["kernel"][1]
    assert np.abs(kernel - value.T).max() <= 2.0**-8 * np.abs(value).max()
    chats = [chat_model(one, config, "chat") for one in (found, open_checkpoint(base))]
    assert chats[0].prompt("1 + 1?", "", "x") == chats[1].prompt("1 + 1?", "", "x")
    assert chats[0].stop_tokens == chats[1].stop_tokens
    for file in base.glob("tokenizer*"):
        shutil.copy(file, adapter)
    assert found.tokenizer == adapter
    assert chat_model(found, config, "plain").stop_tokens == chats[1].stop_tokens
    replaced = found.changed[0]
    with CheckpointRewrite(found, tmp_path / "copy", replaced=[replaced], identity=0) as rewrite:
        assert list(rewrite.copy()) == list(found.files)
        rewrite.write({replaced: found.read(replaced)}, {replaced: None})
        rewrite.finish("")
    copy = tiny.read_tensors(tmp_path / "copy")
    assert all((copy[name] == found.read(name)).all() for name in found.names)
    assert (tmp_path / "copy" / "tokenizer.json").is_file()


def test_fingerprints_cover_base_and_adapter(tmp_path: pathlib.Path, llama: pathlib.Path) -> None:
    base = pathlib.Path(shutil.copytree(llama, tmp_path / "base"))
    adapter = make_adapter(tmp_path / "adapter", base)
    names = {"config.json", "model.safetensors", CONFIG, WEIGHTS}
    whole = input_digest(opened(adapter, base), full=True)
    assert whole.keys() == names
    assert all("sha256" in one for one in whole.values())
    before = input_digest(opened(adapter, base))

    def changed() -> set[str]:
        nonlocal before
        last, before = before, input_digest(opened(adapter, base))
        return {name for name in names if last[name] != before[name]}

    assert changed() == set()
    edit(adapter, lora_alpha=5)
    assert changed() == {CONFIG}
    edit_tensors(adapter, **{f"{Q}lora_A__weight": np.ones((4, 64), np.float32)})
    assert changed() == {WEIGHTS}
    shutil.rmtree(base)
    tiny.perturb(llama, base)
    assert changed() == {"model.safetensors"}


def test_notes_tell_of_the_merge_and_of_another_base(
    tmp_path: pathlib.Path, llama: pathlib.Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama)
    (note,) = opened(adapter, llama).notes
    assert note == (
        f"{adapter} is a LoRA adapter, merged into {llama}: 8 matrices changed, 0 tensors replaced"
    )
    edit(adapter, base_model_name_or_path="org/llama")  # the last name is the same
    assert len(opened(adapter, llama).notes) == 1
    edit(adapter, base_model_name_or_path="org/Other-7B")
    assert "names 'org/Other-7B' as its base, not " in opened(adapter, llama).notes[1]


# --- refusals ----------------------------------------------------------------------------------


def refusal(adapter: pathlib.Path, base: pathlib.Path) -> str:
    with pytest.raises(InputError) as caught:
        opened(adapter, base)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 1500
    return text


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, ["peft_type is 'IA3'", "expected 'LORA'", "merge_and_unload"]),
        ({"use_dora": True}, ["q_proj.lora_magnitude_vector is missing", "asks for DoRA"]),
        ({"lora_bias": True}, ["lora_bias"]),
        ({"init_lora_weights": "pissa_niter_4"}, ["'pissa_niter_4'", "changes the base"]),
        ({"trainable_token_indices": [-3]}, ["trainable_token_indices: expected a whole number"]),
        ({"trainable_token_indices": {"x": 3}}, ["expected indices of tokens, found 3"]),
        ({"r": 0}, [": r: expected a whole number in 1..1048576, found 0"]),
        ({"r": 8}, ["has shape (4, 64), expected (8, 64)", "rank 8"]),
        ({"lora_alpha": "x"}, ["lora_alpha: expected a number, found 'x'"]),
        ({"rank_pattern": ["q_proj"]}, ["rank_pattern: expected an object"]),
        ({"bias": "some"}, ["bias is 'some'"]),
        ({"target_modules": ["q_proj"]}, ["mlp.down_proj.lora_A.weight is used by nothing"]),
        ({"target_modules": ["q_proj", "down_proj", "up_proj"]}, ["up_proj.lora_A.weight is miss"]),
        ({"layers_to_transform": [0, 1]}, ["layers.{2..3}.mlp.down_proj", "used by nothing"]),
        ({"exclude_modules": ["q_proj"]}, ["q_proj.lora_A.weight is used by nothing"]),
        ({"target_modules": "(q_proj"}, ["is no regular expression"]),
        ({"target_modules": r"(\w*\.?)*_pro$"}, [r"target_modules: '(\\w*", "takes more than"]),
        ({"rank_pattern": {"(?P<idx": 4}}, ["rank_pattern: '(?P<idx' is no regular expression"]),
        ({"r": 10**30}, [": r: expected a whole number"]),
        ({"lora_alpha": 10**400}, ["a number of more than 300 digits"]),
        ({"lora_alpha": float("inf")}, ["lora_alpha: expected a number, found inf"]),
        ({"lora_alpha": 1e300}, ["lora_alpha: expected a number, found 1e+300"]),
        ({"use_rslora": "no"}, ["use_rslora: expected true or false, found 'no'"]),
        ({"layers_pattern": 1.5}, ["layers_pattern: expected a list of names, found 1.5"]),
        ({"layers_to_transform": [1.5]}, ["layers_to_transform: expected a whole number"]),
        ({"layers_to_transform": {"a": 1}}, ["layers_to_transform: expected numbers of layers"]),
        ({"target_modules": {"q": 1}}, ["target_modules: expected a list of names"]),
        ({"modules_to_save": "lm_head"}, ["modules_to_save: expected a list of names"]),
    ],
)
def test_configurations_that_are_refused(
    tmp_path: pathlib.Path,
    llama: pathlib.Path,
    config: dict[str, Any],
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(patterns, "_SECONDS", 0.5)
    adapter = make_adapter(tmp_path / "adapter", llama, **config)
    text = refusal(adapter, llama)
    assert str(adapter) in text
    for word in words:
        assert word in text


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{Q}lora_A__weight": None}, ["q_proj.lora_A.weight is missing, the other factor"]),
        ({f"{Q}lora_A__weight": np.ones((4, 63), np.float32)}, ["(4, 63), expected (4, 64)"]),
        ({f"{Q}lora_A__weight": np.ones((4, 64), np.int32)}, ["is int32, expected bf16"]),
        ({f"{Q}lora_magnitude_vector": np.ones(64, np.float32)}, ["does not ask for DoRA"]),
        ({f"{Q}weight": np.ones((64, 64), np.float32)}, ["q_proj.weight is used by nothing"]),
        ({f"{Q}lora_A__other__weight": np.ones((4, 64), np.float32)}, ["is there as"]),
        (
            {f"{Q}lora_{x}__weight": None for x in "AB"}
            | {f"{Q}lora_A__one__weight": np.ones((4, 64)), f"{Q}lora_B__two__weight": np.ones(4)},
            ["tensors of several adapters (one, two), expected one"],
        ),
        (
            {"model__layers__9__mlp__up_proj__weight": np.ones((4, 4), np.float32)},
            ["up_proj.weight takes the place of a tensor that the base does not have"],
        ),
        (
            {f"model__layers__9__mlp__down_proj__lora_{x}__weight": np.ones(4) for x in "AB"},
            ["layers.9.mlp.down_proj.lora_A.weight changes a layer that the base does not have"],
        ),
    ],
)
def test_tensors_that_do_not_fit(
    tmp_path: pathlib.Path, llama: pathlib.Path, tensors: dict[str, Any], words: list[str]
) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama)
    edit_tensors(adapter, **tensors)
    text = refusal(adapter, llama)
    assert f"adapter {adapter} (made for '{llama}') does not fit {llama}: " in text
    for word in words:
        assert word in text


def test_faults_of_embedding_and_head_matter_where_they_are_read(
    tmp_path: pathlib.Path, llama: pathlib.Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama, modules_to_save=["embed_tokens"])
    edit_tensors(adapter, model__embed_tokens__weight=np.ones((128, 63), np.float32))
    found = opened(adapter, llama)
    assert found.read("model.layers.0.self_attn.q_proj.weight").shape == (64, 64)
    (note,) = found.notes[1:]
    why = "embed_tokens.weight has shape (128, 63), expected (128, 64)"
    assert why in note
    assert "the model not be run" in note
    with pytest.raises(InputError, match=r"expected \(128, 64\)"):
        load_params(found, model_config(found))


def test_what_the_base_has_no_place_for_is_noted(
    tmp_path: pathlib.Path, llama: pathlib.Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama, modules_to_save=["score"])
    edit_tensors(adapter, score__weight=np.ones((2, 64), np.float32))
    found = opened(adapter, llama)
    assert found.names == open_checkpoint(llama).names
    assert found.notes[1].endswith("nothing of that name: base_model.model.score.weight")


def test_a_pattern_may_name_more_than_was_trained(
    tmp_path: pathlib.Path, llama: pathlib.Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama)
    edit(adapter, target_modules="all-linear")
    found = opened(adapter, llama)
    assert len(found.changed) == 8
    assert "20 layers that target_modules of" in found.notes[1]
    agree(found, merged_by_hand(llama, adapter), "bfloat16")


@pytest.mark.parametrize("wrapper", ["{}", "_orig_mod.{}", "module.{}"])
def test_names_that_frameworks_save(
    tmp_path: pathlib.Path, llama: pathlib.Path, wrapper: str
) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama, modules_to_save=["lm_head"])
    edit_tensors(adapter, lm_head__weight=np.ones((128, 64), np.float32))
    wanted = opened(adapter, llama)
    plain = load_file(adapter / WEIGHTS)
    renamed = {
        wrapper.format(
            name.replace("lora_A.", "lora_A.default.")
            .replace("lora_B.", "lora_B.default.")
            .replace("lm_head.", "lm_head.modules_to_save.default.")
        ): value
        for name, value in plain.items()
    }
    renamed[f"{PREFIX}lm_head.original_module.weight"] = np.zeros((128, 64), np.float32)
    other = pathlib.Path(shutil.copytree(adapter, tmp_path / "other"))
    save_file(renamed, other / WEIGHTS)
    found = opened(other, llama)
    assert found.changed == wanted.changed
    for name in found.changed:
        np.testing.assert_array_equal(found.read(name), wanted.read(name))


@pytest.mark.parametrize("wraps", ["model.language_model.", "language_model.model.", ""])
def test_models_that_wrap_another(tmp_path: pathlib.Path, llama: pathlib.Path, wraps: str) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama)
    wanted = opened(adapter, llama)
    own = {
        name.replace(f"{PREFIX}model.", PREFIX + wraps): value
        for name, value in load_file(adapter / WEIGHTS).items()
    }
    adapter = pathlib.Path(shutil.copytree(adapter, tmp_path / "own"))
    save_file(own, adapter / WEIGHTS)
    config = json.loads((llama / "config.json").read_text())
    tensors = {
        f"{wraps}{name.removeprefix('model.')}" if name.startswith("model.") else name: value
        for name, value in tiny.read_tensors(llama).items()
    }
    base = tiny.write_checkpoint(tmp_path / "base", config, tensors)
    for whole in (base, llama):
        found = opened(adapter, whole)
        assert found.changed == wanted.changed
        for name in found.changed:
            np.testing.assert_array_equal(found.read(name), wanted.read(name))
    replaced = "model.layers.0.mlp.up_proj.weight"
    found = opened(adapter, base)
    with CheckpointRewrite(found, tmp_path / "copy", replaced=[replaced], identity=0) as rewrite:
        list(rewrite.copy())
        rewrite.write({replaced: found.read(replaced)}, {replaced: None})
        rewrite.finish("")
    copy = open_checkpoint(tmp_path / "copy")
    assert all((copy.read(name) == found.read(name)).all() for name in found.names)


@pytest.mark.parametrize("rows", [120, 128, 133])
def test_a_vocabulary_of_the_adapter_s_own(tmp_path: pathlib.Path, rows: int) -> None:
    tied = tiny.make_checkpoint(tmp_path / "tied", "qwen2", shards=2, dtype="float32")
    adapter = make_adapter(tmp_path / "adapter", tied, modules_to_save=["embed_tokens", "lm_head"])
    rng = np.random.default_rng(0)
    ends = {name: rng.standard_normal((rows, 64)).astype(np.float32) for name in ("a", "b")}
    edit_tensors(adapter, model__embed_tokens__weight=ends["a"], lm_head__weight=ends["b"])
    found = opened(adapter, tied)
    config = model_config(found)
    assert (config.vocab_size, config.tie_word_embeddings) == (rows, False)
    params = load_params(found, config)
    np.testing.assert_array_equal(params["embed_tokens"]["embedding"], ends["a"])
    np.testing.assert_array_equal(params["lm_head"]["kernel"], ends["b"].T)
    replaced = "model.layers.0.self_attn.q_proj.weight"
    with CheckpointRewrite(found, tmp_path / "copy", replaced=[replaced], identity=0) as rewrite:
        list(rewrite.copy())
        rewrite.write({replaced: found.read(replaced)}, {replaced: None})
        rewrite.finish("")
    copy = open_checkpoint(tmp_path / "copy")
    assert copy.names == found.names
    assert model_config(copy) == config
    assert all((copy.read(name) == found.read(name)).all() for name in found.names)


def test_files_that_are_refused(tmp_path: pathlib.Path, llama: pathlib.Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama)
    whole = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(whole[:-10])
    assert "truncated or corrupt" in refusal(adapter, llama)
    (adapter / WEIGHTS).unlink()
    assert f"but no {WEIGHTS}" in refusal(adapter, llama)
    (adapter / "adapter_model.bin").write_bytes(b"\x80\x04.")
    assert "adapter_model.bin: a pickle, which is never opened" in refusal(adapter, llama)
    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(whole)
    (adapter / WEIGHTS).symlink_to(outside)
    assert "outside its directory" in refusal(adapter, llama)


def test_bases_that_are_not_to_be_had(tmp_path: pathlib.Path, llama: pathlib.Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama)
    assert open_checkpoint(adapter).names == open_checkpoint(llama).names
    for named, word in (
        (None, "none is named"),
        ("/no/such/base", "checkpoint /no/such/base: no such directory"),
        ("nobody/has-this-one", "nobody/has-this-one"),
        (str(adapter), "base is to be a model by itself"),
    ):
        edit(adapter, base_model_name_or_path=named)
        with pytest.raises(InputError) as caught:
            open_checkpoint(adapter)
        assert word in str(caught.value)
        assert f"{adapter / CONFIG}: a LoRA adapter is run on the base" in str(caught.value)
    edit(adapter, base_model_name_or_path=str(llama))
    other = make_adapter(tmp_path / "other", llama, seed=1)
    beside = open_checkpoint(other, lambda: open_checkpoint(adapter))
    assert isinstance(beside, MergedCheckpoint)
    assert beside.base.path == llama, "two adapters share the model below"


def test_values_that_are_no_numbers_are_told(tmp_path: pathlib.Path, llama: pathlib.Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", llama)
    bad = load_file(adapter / WEIGHTS)[f"{PREFIX}model.layers.0.self_attn.q_proj.lora_A.weight"]
    bad[0, 0] = np.inf
    edit_tensors(adapter, **{f"{Q}lora_A__weight": bad})
    with pytest.raises(InputError, match=f"{WEIGHTS}: tensor .*q_proj.weight holds .* Inf"):
        load_params(opened(adapter, llama), model_config(llama))
