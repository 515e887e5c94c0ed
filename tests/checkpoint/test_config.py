"""config.json: both forms read alike, and what cannot be used is said in one line."""

from __future__ import annotations

import json
import math
import pathlib
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from svdjax.checkpoint.config import Rope, model_config
from svdjax.errors import InputError
from svdjax.model.rope import inverse_frequencies
from tests.model.variants import VARIANTS
from tests.support import tiny
from tests.sweep.harness import environment


@pytest.mark.parametrize("name", VARIANTS)
def test_old_and_new_form_read_alike(name: str, tmp_path: pathlib.Path) -> None:
    variant = VARIANTS[name]
    old, new = (
        tiny.tiny_config(variant.family, style=style, **variant.overrides) for style in ("v4", "v5")
    )
    assert "rope_parameters" in new
    assert "rope_parameters" not in old
    assert model_config(old) == model_config(new)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(new), encoding="utf-8")
    assert model_config(path) == model_config(tmp_path) == model_config(str(tmp_path))
    assert hash(model_config(old)) == hash(model_config(new))


def test_fields() -> None:
    config = model_config(tiny.tiny_config("gemma2"))
    assert config.windows == (6, None, 6, None)
    assert config.query_scale == 12**-0.5
    assert (config.attn_logit_softcap, config.final_logit_softcap) == (3.0, 5.0)
    assert config.embedding_scale == 8.0
    assert config.norm_plus_one
    assert config.post_norms
    qwen = tiny.tiny_config("qwen2", use_sliding_window=True)
    assert model_config(qwen).windows == (None, None, 8, 8)
    assert model_config(tiny.tiny_config("qwen2")).windows == (None,) * 4
    assert model_config(tiny.tiny_config("mistral")).windows == (8,) * 4
    phi = model_config(tiny.tiny_config("phi3"))
    assert phi.fused_qkv
    assert phi.rope.kind == "longrope"
    assert phi.rope.attention_factor == math.sqrt(1 + math.log(128 / 16) / math.log(16))
    qwen3 = model_config(tiny.tiny_config("qwen3", attention_bias=True))
    assert (qwen3.qk_norm, qwen3.windows) == ("head", (None,) * 4)
    assert qwen3.attention_bias
    assert qwen3.attention_out_bias
    gemma = model_config(tiny.tiny_config("gemma3_text"))
    assert gemma.windows == (6, 6, None, 6)
    assert gemma.rope == Rope("linear", 1000.0, factor=8.0)
    assert gemma.local_rope == Rope(theta=50.0)
    olmo = model_config(tiny.tiny_config("olmo2", num_key_value_heads=None))
    assert (olmo.num_kv_heads, olmo.qk_norm) == (4, "all")
    assert (olmo.pre_norms, olmo.post_norms) == (False, True)
    granite = model_config(tiny.tiny_config("granite"))
    assert (granite.query_scale, granite.embedding_scale) == (0.4, 3.0)
    assert (granite.residual_scale, granite.logit_scale) == (0.6, 1 / 1.5)


def test_reading_leaves_the_given_dict_alone() -> None:
    raw = tiny.tiny_config("phi3")
    before = json.dumps(raw)
    model_config(raw)
    assert json.dumps(raw) == before


@pytest.mark.parametrize(("given", "expected"), [({"attention_factor": 1.5}, 1.5),
                                                 ({"factor": 16.0}, math.sqrt(2.0)),
                                                 ({"factor": 1.0}, 1.0)])  # fmt: skip
def test_attention_factor(given: dict[str, float], expected: float) -> None:
    scaling = {**tiny.tiny_config("phi3")["rope_scaling"], **given}
    config = model_config(tiny.tiny_config("phi3", rope_scaling=scaling))
    assert math.isclose(config.rope.attention_factor, expected)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("llama", {"model_type": "mamba"}, ("model_type is 'mamba'", "qwen2, llama")),
        ("llama", {"hidden_act": "relu"}, ("activation 'relu'", "silu")),
        ("llama", {"num_key_value_heads": 3}, ("num_attention_heads 4", "num_key_value_heads 3")),
        ("llama", {"num_key_value_heads": 0}, ("num_key_value_heads is 0", "1..65536")),
        ("llama", {"vocab_size": None}, ("not a valid llama config", "vocab_size is None")),
        ("llama", {"rope_scaling": {"type": "mrope", "factor": 2.0}}, ("rope type 'mrope'",)),
        ("llama", {"rope_scaling": {"type": "yarn"}}, ("factor of its rope", "found None")),
        ("llama", {"rope_scaling": {"type": "dynamic"}}, ("factor of its rope", "found None")),
        (
            "llama",
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "truncate": "no"}},
            ("truncate of its rope",),
        ),
        (
            "llama",
            {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": -1.0}},
            ("beta_fast of its rope: expected a number above 0",),
        ),
        (
            "llama",
            {"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 2.0}},
            ("rope_theta of its rope is 1",),
        ),
        (
            "llama",
            {"head_dim": 2, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            ("'dynamic' needs 4",),
        ),
        ("qwen3_moe", {"mlp_only_layers": [1]}, ("mlp_only_layers is [1]", "expected none")),
        ("qwen3_moe", {"decoder_sparse_step": 2}, ("decoder_sparse_step is 2", "expected 1")),
        ("qwen3_moe", {"num_experts_per_tok": 9}, ("num_experts_per_tok is 9", "experts, 8")),
        ("qwen3_moe", {"num_experts": 0}, ("num_experts: expected a whole number",)),
        ("qwen3_moe", {"num_experts": 60_000}, ("60000 experts in each of 4 layers", "131072")),
        ("mixtral", {"num_local_experts": "8"}, ("num_local_experts is '8', expected a whole",)),
        ("olmoe", {"clip_qkv": 8.0}, ("clip_qkv is 8.0", "expected none")),
        ("llama", {"rope_scaling": {"type": "linear"}}, ("factor of its rope", "found None")),
        ("gemma2", {"use_bidirectional_attention": True}, ("use_bidirectional_attention",)),
        ("gemma2", {"query_pre_attn_scalar": 0}, ("query_pre_attn_scalar is 0", "above 0")),
        ("qwen3", {"layer_types": ["chunked_attention"] * 4}, ("'chunked_attention'",)),
        ("qwen3", {"layer_types": ["sliding_attention"] * 4}, ("sliding_window is None",)),
        ("qwen3", {"layer_types": ["full_attention"]}, ("has 1 entries, expected 4",)),
        ("qwen3", {"layer_types": "full_attention"}, ("layer_types: expected a list of names",)),
        ("qwen3", {"layer_types": [3] * 4}, ("layer_types: expected a list of names",)),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 0}, ("at least 1",)),
        ("qwen3", {"use_sliding_window": "no"}, ("use_sliding_window is 'no', expected true",)),
        ("qwen3", {"head_dim": None}, ("head_dim is None, expected a whole number",)),
        ("llama", {"rms_norm_eps": "0"}, ("rms_norm_eps is '0', expected a number",)),
        ("llama", {"hidden_act": ["silu"]}, ("activation ['silu']",)),
        ("gemma3_text", {"sliding_window_pattern": 0}, ("sliding_window_pattern is 0",)),
        ("gemma3_text", {"final_logit_softcapping": "3"}, ("final_logit_softcapping is '3'",)),
        ("phi3", {"rope_scaling": {"type": "linear"}}, ("expected default or longrope",)),
        (
            "qwen2",
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            ("rope_parameters has full_attention, expected one rope for all layers",),
        ),
        ("gemma3_text", {"sliding_window": None}, ("sliding_window is None",)),
        ("gemma3_text", {"attn_logit_softcapping": 30.0}, ("attn_logit_softcapping is 30.0",)),
        (
            "gemma3_text",
            {"rope_parameters": {"full_attention": 3, "sliding_attention": {}}},
            ("full_attention of rope_parameters is 3", "an object"),
        ),
        ("granite", {"residual_multiplier": math.inf}, ("residual_multiplier is inf", "finite")),
        ("granite", {"embedding_multiplier": math.nan}, ("embedding_multiplier is nan",)),
        ("granite", {"logits_scaling": 0}, ("logits_scaling is 0", "above 0")),
        ("granite", {"attention_multiplier": "1"}, ("not a valid granite config", "a number")),
        (
            "gemma3_text",
            {"model_type": "gemma3", "text_config": tiny.tiny_config("gemma3_text")},
            ("model_type is 'gemma3'", "its text_config is gemma3_text"),
        ),
        ("gemma2", {"final_logit_softcapping": math.inf}, ("final_logit_softcapping is inf",)),
        ("gemma2", {"query_pre_attn_scalar": 5e-324}, ("not a valid gemma2 config",)),
        ("llama", {"num_hidden_layers": 10**30}, ("num_hidden_layers is 10", "in 1..10000")),
        ("llama", {"vocab_size": 10**400}, ("a number of more than 300 digits",)),
        ("llama", {"max_position_embeddings": 1 << 31}, ("max_position_embeddings is 2147483648",)),
        ("qwen2", {"hidden_size": 3}, ("hidden_size 3 is less than num_attention_heads 4",)),
        ("llama", {"head_dim": 5}, ("head_dim",)),
        ("llama", {"rms_norm_eps": -1.0}, ("rms_norm_eps: expected a number in 0..1e+30",)),
        ("llama", {"rope_scaling": None, "rope_theta": 1e308}, ("rope_theta of its rope: expe",)),
        ("llama", {"rope_scaling": "linear"}, ("rope_scaling is 'linear', expected an object",)),
        ("llama", {"rope_scaling": [1, 2]}, ("rope_scaling is [1, 2], expected an object",)),
        (
            "llama",
            {"rope_scaling": {"rope_type": "linear", "factor": "8"}},
            ("factor of its rope: expected a number above 0, found '8'",),
        ),
        ("llama", {"rope_scaling": {"rope_type": ["linear"]}}, ("rope type ['linear']",)),
        ("llama", {"per_layer_config": {"0": {"hidden_size": 4}}}, ("per_layer_config",)),
        ("llama", {"anything": [[[[[[[[]]]]]]]] * 20_000}, ("more than 100000 lists and objects",)),
        ("llama", {"anything": json.loads("[" * 70 + "]" * 70)}, ("nests deeper than 64",)),
        (
            "phi3",
            {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}},
            ("short_factor: longrope needs a list of 6 numbers, found 1",),
        ),
    ],
)
def test_what_cannot_be_used(
    family: str, changes: dict[str, Any], words: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny.tiny_config(family) | changes), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        model_config(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_what_no_model_depends_on_is_not_handed_on() -> None:
    raw = tiny.tiny_config("qwen2")
    others = {"num_labels": 10**9, "dtype": "nn", "auto_map": {"AutoConfig": "x.y"}, "x": math.nan}
    began = time.process_time()
    assert model_config(raw | others) == model_config(raw)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_files_that_are_no_config(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        InputError, match=r"config\.json: (is not valid JSON|expected a JSON object)"
    ):
        model_config(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        model_config(tmp_path / "elsewhere")


def test_llama3_frequencies_change_by_wavelength() -> None:
    # From the definition: short waves stay, long ones are stretched, those between interpolate.
    rope = Rope("llama3", 10_000.0, 1.0, 8.0, 1.0, 4.0, 32)
    plain = 10_000.0 ** -(np.arange(0, 16, 2) / 16)
    expected = []
    for frequency in plain:
        wave = 2 * math.pi / frequency
        if wave < 32 / 4.0:
            expected.append(frequency)
        elif wave > 32 / 1.0:
            expected.append(frequency / 8.0)
        else:
            smooth = (32 / wave - 1.0) / (4.0 - 1.0)
            expected.append((1 - smooth) * frequency / 8.0 + smooth * frequency)
    np.testing.assert_allclose(inverse_frequencies(rope, 16), expected, rtol=1e-12)


WITHOUT_TRANSFORMERS = """
import sys
sys.modules |= {"transformers": None, "huggingface_hub": None, "torch": None}
from svdjax.checkpoint.config import model_config
print(model_config(sys.argv[1]))
"""


def test_no_library_reads_the_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny.tiny_config("qwen2")), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRANSFORMERS, str(path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{model_config(path)}\n"
