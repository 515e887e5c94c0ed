"""Steps that Orbax wrote, read under the names of Hugging Face."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
import pytest

from svdjax.checkpoint import input_digest, load_params, model_config, open_checkpoint, plan_pair
from svdjax.checkpoint.orbax_step import OrbaxCheckpoint
from svdjax.checkpoint.rewrite import CheckpointRewrite
from svdjax.errors import InputError
from tests.support import tiny


def write_run(folder: pathlib.Path, trees: dict[int, Any]) -> pathlib.Path:
    """What a training loop with Orbax's CheckpointManager leaves."""
    options = ocp.CheckpointManagerOptions(enable_async_checkpointing=False)
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        for step, tree in trees.items():
            manager.save(step, args=ocp.args.StandardSave(tree))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """A model of biases, norms, a tied head and bf16, beside the run that holds it as step 3."""
    root = tmp_path_factory.mktemp("orbax")
    model = tiny.make_checkpoint(root / "model", "qwen2", seed=5)
    with open_checkpoint(model) as checkpoint:
        params = load_params(checkpoint, model_config(model), None)
    state = {"params": params, "moments": [{"mu": params, "count": np.zeros((), np.int32)}]}
    run = write_run(root / "run" / "checkpoints", {3: state})
    bare = write_run(root / "bare", {3: params})
    shutil.copy(model / "config.json", root / "run")
    shutil.copy(model / "config.json", bare)
    return {"model": model, "state": run / "3", "bare": bare / "3"}


@pytest.mark.parametrize("kind", ["state", "bare"])
def test_is_the_model_bit_for_bit(models: dict[str, pathlib.Path], kind: str) -> None:
    with open_checkpoint(models[kind]) as step, open_checkpoint(models["model"]) as model:
        assert isinstance(step, OrbaxCheckpoint)
        assert step.names == model.names
        for name in model.names:
            found, wanted = step.read(name), model.read(name)
            assert (step.spec(name).shape, step.spec(name).dtype) == (wanted.shape, wanted.dtype)
            np.testing.assert_array_equal(found, wanted)
            assert found.flags.owndata
        name = "model.layers.2.mlp.down_proj.weight"
        np.testing.assert_array_equal(step.read(name, (3, 9)), model.read(name)[3:9])
        plan = plan_pair(model, step)
        assert len(plan.projections) == 7
        assert any("was written by Orbax" in note for note in plan.notes)
        digest = input_digest(step)
        assert {"config.json", "_CHECKPOINT_METADATA"} < digest.keys()


def test_memory_does_not_grow_with_the_steps(models: dict[str, pathlib.Path]) -> None:
    from svdjax.checkpoint import orbax_step

    steps = [open_checkpoint(models["bare"]) for _ in range(3)]
    for step in steps:
        for name in step.names:
            step.read(name)
        assert len(orbax_step._CACHE) <= orbax_step._MOST_CACHED
    for step in steps:
        step.close()


def test_a_recipe_tells_the_configuration(
    models: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    run = shutil.copytree(models["state"].parent, tmp_path / "run" / "checkpoints")
    with pytest.raises(InputError, match=r"says nothing of the model; put its config\.json into"):
        open_checkpoint(run / "3")
    config = json.loads((models["model"] / "config.json").read_text())
    (tmp_path / "run" / "recipe.json").write_text(json.dumps({"recipe": {}, "config": config}))
    assert open_checkpoint(run / "3").config == config


def test_trees_that_are_not_the_model_s(
    models: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    step = shutil.copytree(models["bare"].parent, tmp_path / "run") / "3"
    original = json.loads((tmp_path / "run" / "config.json").read_text())
    for change, words in (
        ({"num_hidden_layers": 5}, "q_proj/kernel has shape (4, 64, 64), expected 5 layers first"),
        ({"model_type": "llama"}, "leaf layers/self_attn/q_proj/bias is not part of a llama"),
        ({"tie_word_embeddings": False}, "leaf lm_head/kernel is missing"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
    ):
        (tmp_path / "run" / "config.json").write_text(json.dumps(original | change))
        with pytest.raises(InputError) as caught:
            open_checkpoint(step)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    (tmp_path / "run" / "config.json").write_text(json.dumps(original | {"hidden_size": 128}))
    notes = plan_pair(open_checkpoint(models["model"]), open_checkpoint(step)).notes
    assert any("hidden_size is 64 in" in note and "and 128 in" in note for note in notes)


def test_damaged_steps(
    models: dict[str, pathlib.Path], tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]
) -> None:
    step = shutil.copytree(models["bare"].parent, tmp_path / "run") / "3"
    tree = step / "default"
    data = max((tree / "ocdbt.process_0" / "d").iterdir(), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(InputError, match=r"default: leaf .* cannot be read"):
        open_checkpoint(step).read("model.layers.0.mlp.up_proj.weight")
    # The nodes of the database have checksums.
    (node,) = (tree / "d").iterdir()
    content = bytearray(node.read_bytes())
    content[len(content) // 2] ^= 1
    node.write_bytes(content)
    with pytest.raises(InputError, match="CRC-32C checksum verification failed"):
        open_checkpoint(step)
    (tree / "_METADATA").write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        open_checkpoint(step)
    shutil.rmtree(tree)
    with pytest.raises(InputError, match="there is no pytree in it"):
        open_checkpoint(step)
    assert "Traceback" not in capfd.readouterr().err


def test_what_has_no_checksum_is_told(models: dict[str, pathlib.Path]) -> None:
    notes = open_checkpoint(models["bare"]).notes
    assert any("without checksums of its arrays" in note for note in notes)


def test_steps_that_change_meanwhile(
    models: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    step = shutil.copytree(models["bare"].parent, tmp_path / "run") / "3"
    whole = open_checkpoint(step)
    whole.read("model.norm.weight")
    file = max(step.rglob("*"), key=lambda file: file.stat().st_size * file.is_file())
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    for call in (
        lambda: whole.read("model.layers.0.mlp.up_proj.weight"),
        lambda: input_digest(whole),
        whole.check_unchanged,
    ):
        with pytest.raises(InputError, match=f"{file}: was changed or replaced"):
            call()


def test_what_leads_out_of_a_step(models: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    step = shutil.copytree(models["bare"].parent, tmp_path / "run") / "3"
    tree = step / "default" / "_METADATA"
    content = json.loads(tree.read_text())
    for name in ("/etc", "../../..", "a/../../b"):
        entry = {"key_metadata": [{"key": name, "key_type": 2}], "value_metadata": {}}
        leaves = content["tree_metadata"] | {str((name,)): entry}
        tree.write_text(json.dumps(content | {"tree_metadata": leaves}))
        with pytest.raises(InputError, match="which leads out of it"):
            open_checkpoint(step)
    tree.write_text(json.dumps(content))
    for file in (step / "commit_success.txt", tree, next((step / "default" / "d").iterdir())):
        file.rename(tmp_path / "away")
        file.symlink_to(tmp_path / "away")
        with pytest.raises(InputError, match=f"{file}: is a link to .*outside its directory"):
            open_checkpoint(step)
        file.unlink()
        (tmp_path / "away").rename(file)
    assert open_checkpoint(step).names


def test_no_layout_to_take_over(models: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="no layout of files to take over"):
        CheckpointRewrite(
            open_checkpoint(models["bare"]), tmp_path / "out", replaced=[], identity=0
        )
