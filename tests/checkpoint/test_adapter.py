"""Adapters: what the files hold, and that PEFT makes the original model of residual and adapter.

Axis legend: `L` layers, `I` in, `O` out, `K` rank.
"""

from __future__ import annotations

import json
import pathlib
import warnings
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from svdjax.checkpoint import load_params, model_config, open_checkpoint, save_checkpoint
from svdjax.checkpoint.adapter import save_adapter
from svdjax.construct.low_rank import lora_split
from svdjax.errors import InputError
from tests.support import tiny

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
RANK = 6
# Of the logits, as for the decoder (tests/model/test_golden.py): two float32 programs that sum in
# different orders, x W here and x (W - A B) + (x A) B there. Reaches 3e-5 on these models, whose
# logits have a deviation of about 2; to be kept.
TOLERANCE = 1e-4


def load(path: pathlib.Path) -> dict[str, Any]:
    with open_checkpoint(path) as checkpoint:
        return load_params(checkpoint, model_config(path), np.float32)


def split_on_disk(
    folder: pathlib.Path, family: str, *, dtype: str = "float32", **options: Any
) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    """Directories of a tiny model, of its residual and of the adapter."""
    original = tiny.make_checkpoint(folder / "original", family, dtype=dtype, seed=3)
    residual, lora = lora_split(load(original), rank=RANK, **options)
    raw = json.loads((original / "config.json").read_text())
    base = save_checkpoint(folder / "residual", residual, raw, dtype="float32")
    adapter = save_adapter(
        folder / "adapter",
        lora.factors,
        model_config(original),
        layers=lora.layers,
        base_model=base,
    )
    return original, base, adapter


def random_factors(config: Any, names: dict[str, tuple[int, int]], layers: int, rank: int) -> Any:
    rng = np.random.default_rng(0)
    return {
        path: (rng.standard_normal((layers, i, rank)), rng.standard_normal((layers, rank, o)))
        for path, (i, o) in names.items()
    }


# --- the files ---------------------------------------------------------------------------------


def test_files_hold_the_transposed_factors(tmp_path: pathlib.Path) -> None:
    config = model_config(tiny.tiny_config("llama"))
    kernels = {"layers/self_attn/k_proj/kernel": (64, 32), "layers/mlp/down_proj/kernel": (96, 64)}
    factors = random_factors(config, kernels, 2, 3)
    out = save_adapter(tmp_path / "a", factors, config, layers=[3, 1], base_model="org/name")
    assert out == tmp_path / "a"
    assert {entry.name for entry in out.iterdir()} == {CONFIG, WEIGHTS}
    found = load_file(out / WEIGHTS)
    stems = {"k_proj": "self_attn.k_proj", "down_proj": "mlp.down_proj"}
    expected = {}
    for path, pair in factors.items():
        for row, layer in enumerate((3, 1)):
            for letter, stack in zip("AB", pair):
                name = f"model.layers.{layer}.{stems[path.split('/')[-2]]}.lora_{letter}.weight"
                expected[f"base_model.model.{name}"] = stack[row].T.astype(np.float32)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value)
    about = json.loads((out / CONFIG).read_text())
    assert about["r"] == about["lora_alpha"] == 3
    assert about["target_modules"] == ["down_proj", "k_proj"]
    assert about["layers_to_transform"] == [1, 3]
    assert (about["peft_type"], about["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (about["bias"], about["fan_in_fan_out"]) == ("none", False)
    assert about["init_lora_weights"] is True
    assert about["base_model_name_or_path"] == "org/name"


def test_all_layers_are_not_listed(tmp_path: pathlib.Path) -> None:
    config = model_config(tiny.tiny_config("llama"))
    factors = random_factors(config, {"layers/self_attn/q_proj/kernel": (64, 64)}, 4, 2)
    for number, layers in enumerate((None, [0, 1, 2, 3], [3, 2, 1, 0])):
        out = save_adapter(tmp_path / str(number), factors, config, layers=layers)
        about = json.loads((out / CONFIG).read_text())
        assert "layers_to_transform" not in about
        assert about["base_model_name_or_path"] is None


@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16])
def test_factors_of_other_dtypes_are_stored_in_float32(tmp_path: pathlib.Path, dtype: Any) -> None:
    config = model_config(tiny.tiny_config("llama"))
    factors = random_factors(config, {"layers/self_attn/q_proj/kernel": (64, 64)}, 4, 2)
    factors = {path: tuple(x.astype(dtype) for x in pair) for path, pair in factors.items()}
    out = save_adapter(tmp_path / "a", factors, config)
    for name, value in load_file(out / WEIGHTS).items():
        assert value.dtype == np.float32
        layer, side = int(name.split(".")[4]), "AB".index(name.split("_")[-1][0])
        (pair,) = factors.values()
        np.testing.assert_array_equal(value, pair[side][layer].T.astype(np.float32))


def test_production_without_64_bit_types(tmp_path: pathlib.Path) -> None:
    options: Any = {"where": "middle", "modules": "q_proj|down_proj"}
    wanted = split_on_disk(tmp_path / "on", "qwen2", **options)
    with jax.enable_x64(False):
        found = split_on_disk(tmp_path / "off", "qwen2", **options)
    assert (found[2] / WEIGHTS).read_bytes() == (wanted[2] / WEIGHTS).read_bytes()
    assert all(
        (one == two).all()
        for one, two in zip(
            tiny.read_tensors(found[1]).values(), tiny.read_tensors(wanted[1]).values()
        )
    )


# --- all or nothing ----------------------------------------------------------------------------


def one_kernel() -> tuple[Any, Any]:
    config = model_config(tiny.tiny_config("llama"))
    return random_factors(config, {"layers/self_attn/q_proj/kernel": (64, 64)}, 4, 2), config


def test_existing_directories_are_not_touched_unasked(tmp_path: pathlib.Path) -> None:
    factors, config = one_kernel()
    out = save_adapter(tmp_path / "deep" / "a", factors, config)
    with pytest.raises(InputError, match="exists and is not empty"):
        save_adapter(out, factors, config)
    ((path, (a, b)),) = factors.items()
    before = (out / WEIGHTS).read_bytes()
    save_adapter(out, {path: (2 * a, b)}, config, overwrite=True)
    assert (out / WEIGHTS).read_bytes() != before
    precious = tiny.make_checkpoint(tmp_path / "model", "llama")
    with pytest.raises(InputError, match=f"holds no adapter .no {CONFIG}"):
        save_adapter(precious, factors, config, overwrite=True)
    assert {entry.name for entry in tmp_path.iterdir()} == {"deep", "model"}
    assert {entry.name for entry in out.parent.iterdir()} == {"a"}


def test_a_failure_leaves_nothing(tmp_path: pathlib.Path) -> None:
    factors, config = one_kernel()
    ((_, (a, b)),) = factors.items()
    b[3, 0, 0] = np.nan
    with pytest.raises(InputError, match=r"layers\.3\.self_attn\.q_proj\.lora_B\.weight: 1 NaN"):
        save_adapter(tmp_path / "a", factors, config)
    b[3, 0, 0], a[0, 0, 0] = 1.0, 1e300
    with pytest.raises(InputError, match=r"layers\.0\.self_attn\.q_proj\.lora_A.*0 NaN and 1 Inf"):
        save_adapter(tmp_path / "a", factors, config)
    a[0, 0, 0] = 1.0
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/a: cannot be written"):
        save_adapter(tmp_path / "file" / "a", factors, config)
    assert {entry.name for entry in tmp_path.iterdir()} == {"file"}


def test_factors_that_do_not_fit(tmp_path: pathlib.Path) -> None:
    factors, config = one_kernel()
    ((path, (a, b)),) = factors.items()
    o_proj = "layers/self_attn/o_proj/kernel"
    cases: list[tuple[Any, Any, str]] = [
        ({"layers/self_attn/qkv_proj/kernel": (a, b)}, None, "no linear layer of llama; .*q_proj"),
        ({"lm_head/kernel": (a, b)}, None, "lm_head/kernel: no linear layer of llama"),
        ({path: (b, a)}, None, r"shapes \[4, 2, 64\] and \[4, 64, 2\], expected \[4, 64, rank\]"),
        ({path: (a, b)}, [0, 1], r"expected \[2, 64, rank\] and \[2, rank, 64\]"),
        ({path: (a[0], b[0])}, None, r"shapes \[64, 2\]"),
        ({path: (a[..., :0], b[:, :0])}, None, r"shapes \[4, 64, 0\]"),
        ({path: (a, b), o_proj: (a[..., :1], b[:, :1])}, None, "all of one rank, .*2.*o_proj.*1"),
        ({}, None, "factors: expected some"),
        ({path: (a, b)}, [0, 1, 2, 4], "expected different numbers from 0 to 3"),
        ({path: (a, b)}, [0, 1, 2, -1], "expected different numbers from 0 to 3"),
        ({path: (a, b)}, [0, 1, 2, 2], "expected different numbers from 0 to 3"),
    ]
    for wrong, layers, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            save_adapter(tmp_path / "a", wrong, config, layers=layers)
        assert len(str(caught.value)) < 400
    assert not any(tmp_path.iterdir())


# --- PEFT --------------------------------------------------------------------------------------


def causal_model(directory: pathlib.Path) -> Any:
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with warnings.catch_warnings():
        # What transformers and torch warn of among themselves is not ours to mend.
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_pretrained(
            directory, attn_implementation="eager", dtype=torch.float32
        ).eval()


def import_peft() -> Any:
    pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("peft")


def with_adapter(base: pathlib.Path, adapter: pathlib.Path) -> Any:
    """PEFT's model, loaded without a word about the adapter's keys."""
    peft = import_peft()
    model = causal_model(base)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = peft.PeftModel.from_pretrained(model, adapter)
    theirs = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
    ours = [str(each.message) for each in told if not issubclass(each.category, theirs)]
    assert ours == []
    return loaded.eval()


def logits(model: Any) -> np.ndarray:
    torch = pytest.importorskip("torch")
    tokens = np.random.default_rng(5).integers(0, 128, (2, 32))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(torch.from_numpy(tokens)).logits.numpy()


# Every layout once; which components and which layers, where projections are separate and fused.
FAMILY_CASES = [
    *((family, "top", "all", None) for family in tiny.LAYOUTS),
    *((family, "middle", "all", None) for family in ("qwen2", "phi3")),
    *((family, "top", "mlp", [1, 3]) for family in ("qwen2", "phi3")),
    ("qwen2", "bottom", "all", [0, 2, 3]),
    ("phi3", 4, "qkv_proj|gate_up", [2]),
    ("gemma2", "middle", "o_proj", None),
]


@pytest.mark.parametrize(("family", "where", "modules", "layers"), FAMILY_CASES)
def test_peft_makes_the_original_of_both(
    tmp_path: pathlib.Path,
    family: str,
    where: str | int,
    modules: str,
    layers: list[int] | None,
) -> None:
    import_peft()
    original, base, adapter = split_on_disk(
        tmp_path, family, where=where, modules=modules, layers=layers
    )
    expected = logits(causal_model(original))
    assert expected.std() >= 1.0, "the test would be toothless"
    alone = np.abs(logits(causal_model(base)) - expected).max()
    assert alone >= 1000 * TOLERANCE, "the residual alone is another model"
    error = np.abs(logits(with_adapter(base, adapter)) - expected).max()
    assert error <= TOLERANCE


@pytest.mark.parametrize("family", tiny.LAYOUTS)
def test_bfloat16_originals_and_merging(tmp_path: pathlib.Path, family: str) -> None:
    original, base, adapter = split_on_disk(tmp_path, family, dtype="bfloat16")
    model = with_adapter(base, adapter)
    expected = logits(causal_model(original))
    assert np.abs(logits(model) - expected).max() <= TOLERANCE
    merged = model.merge_and_unload()
    assert np.abs(logits(merged) - expected).max() <= TOLERANCE


@pytest.mark.parametrize("family", ["qwen2", "phi3"])
@pytest.mark.parametrize("layers", [None, [1, 2]])
def test_names_are_those_that_peft_writes(
    tmp_path: pathlib.Path, family: str, layers: list[int] | None
) -> None:
    peft = import_peft()
    _, base, adapter = split_on_disk(tmp_path, family, layers=layers)
    model = with_adapter(base, adapter)
    state = peft.get_peft_model_state_dict(model)
    ours = load_file(adapter / WEIGHTS)
    assert state.keys() == ours.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(tensor.numpy(), ours[name])
    model.save_pretrained(tmp_path / "theirs")
    written = json.loads((tmp_path / "theirs" / CONFIG).read_text())
    about = json.loads((adapter / CONFIG).read_text())
    assert sorted(written.pop("target_modules")) == about.pop("target_modules")
    assert {name: written[name] for name in about} == about


def test_the_adapter_knows_its_base_and_trains(tmp_path: pathlib.Path) -> None:
    peft, torch = import_peft(), pytest.importorskip("torch")
    original, _, adapter = split_on_disk(tmp_path, "llama")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.AutoPeftModelForCausalLM.from_pretrained(adapter, is_trainable=True)
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert len(trained) == len(load_file(adapter / WEIGHTS))
    expected = logits(causal_model(original))
    assert np.abs(logits(model.float().eval()) - expected).max() <= TOLERANCE
    loss = model(torch.arange(8)[None], labels=torch.arange(8)[None]).loss
    loss.backward()
    # Both sides start away from 0, so that both have gradients at the first step.
    assert all(each.grad.abs().max() > 0 for each in model.parameters() if each.requires_grad)
