"""The initialisations of appendix F through the command: what is written, resuming, refusals."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest

from svdjax.construct.checkpoint import run_construct
from svdjax.construct.job import InitialiseJob
from svdjax.errors import InputError
from tests.construct import harness
from tests.support import tiny
from tests.sweep.test_refusals import refused


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("qwen2", {"components": "middle"}),
        ("phi3", {"components": "3", "modules": "mlp", "layers": "1-"}),
    ],
)
def test_residual_and_adapter_are_the_model(family, options, models, tmp_path):
    pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from tests.model.test_transformers import reference, reference_logits

    base, _, _ = models(family)
    out = tmp_path / "out"
    job = InitialiseJob(base=str(base), out=str(out), construction="lora", rank=4, **options)
    assert str(out / "adapter") in run_construct(job).summary()
    tokens = np.random.default_rng(0).integers(3, 60, (2, 20))
    wanted, alone = reference_logits(base, tokens), reference_logits(out, tokens)
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        model = peft.PeftModel.from_pretrained(reference(out), out / "adapter")
        both = model(torch.from_numpy(tokens)).logits.numpy()
    # The limit of tests/checkpoint/test_adapter.py, where it is reasoned.
    assert np.abs(both - wanted).max() <= 1e-4
    assert np.abs(alone - wanted).max() > 1e-2
    before, after = tiny.read_tensors(base), tiny.read_tensors(out)
    for name, value in before.items():
        assert after[name].dtype == np.float32
        parts = name.split(".")
        edited = len(parts) == 6 and parts[-1] == "weight"
        if family == "phi3":
            edited = edited and parts[3] == "mlp" and int(parts[2]) >= 1
        if not edited:
            np.testing.assert_array_equal(after[name], value.astype(np.float32))
    assert json.loads((out / "config.json").read_text()).get("torch_dtype", "float32") == "float32"


def test_scaled_by_layer(models, tmp_path):
    base, _, _ = models("llama")
    depth = json.loads((base / "config.json").read_text())["num_hidden_layers"]
    factors = {"o_proj": 1.4, "q_proj": [1 + 0.1 * layer for layer in range(depth)]}
    (tmp_path / "f.json").write_text(json.dumps(factors))
    job = InitialiseJob(
        base=str(base),
        out=str(tmp_path / "out"),
        construction="scaled",
        modules="(o|q)_proj",
        layers="1-",
        factor=str(tmp_path / "f.json"),
        group_bytes=1,
    )
    run_construct(job)
    before, after = tiny.read_tensors(base), tiny.read_tensors(tmp_path / "out")
    for name, value in before.items():
        parts = name.split(".")
        factor: float = 1
        if len(parts) == 6 and parts[4] in factors and int(parts[2]) >= 1:
            of = factors[parts[4]]
            factor = of if isinstance(of, float) else of[int(parts[2])]
        wanted = (value.astype(np.float64) * factor).astype(value.dtype)
        # The product is formed in float32, so what lies near a tie may be one unit off in bf16.
        difference = np.abs(after[name].astype(np.float64) - wanted.astype(np.float64))
        assert np.all(difference <= 2**-7 * np.abs(wanted.astype(np.float64))), name
        assert (after[name].tobytes() == value.tobytes()) == (factor == 1)


def test_a_killed_one_goes_on(square, tmp_path):
    base, _, _ = square
    flags = [f"--base={base}", "--construction=lora", "--rank=3", "--group_bytes=1"]
    out, folder = tmp_path / "out", tmp_path / ".calm.svdjax"

    def watch(_: str) -> None:
        if len(list(folder.glob("lora-*.npz"))) == 4:
            # What a kill would leave at this moment.
            shutil.copytree(folder, tmp_path / ".out.svdjax", dirs_exist_ok=True)

    calm = harness.construct(*flags, f"--out={tmp_path / 'calm'}", stop=watch)
    assert calm.status == 0, calm.err
    assert (tmp_path / ".out.svdjax").is_dir()
    # In groups of another size: what was kept of the old ones is not joined in.
    kept = [flag for flag in flags if "group" not in flag]
    again = harness.construct(*kept, f"--out={out}")
    assert again.status == 0, again.err
    assert again.computed < calm.computed
    for name, content in harness.listing(tmp_path / "calm"):
        if name not in ("README.md", "adapter/adapter_config.json"):
            assert (out / name).is_dir() or (out / name).read_bytes() == content, name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["calm", "out"]


def test_flags_that_do_not_belong_are_refused(models, tmp_path):
    base, post, _ = models("llama")
    common = [f"--base={base}", f"--out={tmp_path / 'out'}"]
    for flags, words in (
        (["--construction=lora"], ["--rank=0"]),
        (["--construction=lora", "--rank=999"], ["rank 999", "q_proj"]),
        (["--construction=lora", "--rank=4", "--components=mid"], ["'mid'", "middle"]),
        (["--construction=lora", "--rank=4", f"--post={post}"], ["--post", "--base alone"]),
        (["--construction=scaled"], ["--factor="]),
        (["--construction=scaled", "--factor=-1"], ["--factor=-1", "above 0"]),
        (["--construction=scaled", "--factor=2", "--rank=3"], ["only --construction=lora"]),
        (["--construction=scaled", "--factor=none.json"], ["none.json", "expected a number"]),
    ):
        refused(harness.construct(*common, *flags), *words)
    assert list(tmp_path.iterdir()) == []


def test_factors_that_do_not_fit_are_refused(models, tmp_path):
    base, _, _ = models("llama")
    for content, words in (
        ({"q_proj": 1}, "none for o_proj"),
        ({"o_proj": 1, "q_proj": 2}, "q_proj is not among"),
        ({"o_proj": [1, 2]}, "one for each of"),
        ({"o_proj": "x"}, "factor of o_proj is 'x'"),
    ):
        path = tmp_path / "f.json"
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=words):
            run_construct(
                InitialiseJob(
                    base=str(base),
                    out=str(tmp_path / "out"),
                    construction="scaled",
                    factor=str(path),
                )
            )
        assert [p.name for p in tmp_path.iterdir()] == ["f.json"]
