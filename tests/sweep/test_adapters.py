"""Adapters in the place of checkpoints: pairs, constructions and commands see the merged model."""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

from svdjax.checkpoint import MergedCheckpoint, open_checkpoint, read_stack
from svdjax.engine import inputs
from svdjax.engine.pairs import PairSpec
from svdjax.errors import InputError
from tests.support import tiny
from tests.support.adapters import edit, make_adapter


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("adapters")
    base = tiny.make_checkpoint(root / "base", "qwen2", seed=11)
    adapters = [make_adapter(root / f"step-{n}", base, seed=n) for n in (1, 2)]
    whole = open_checkpoint(adapters[0])
    tensors = {name: whole.read(name) for name in whole.names}
    merged = tiny.write_checkpoint(root / "merged", whole.config, tensors)
    other = tiny.make_checkpoint(root / "other", "qwen2", seed=12)
    places = {"base": base, "one": adapters[0], "two": adapters[1], "merged": merged}
    return {name: str(path) for name, path in (places | {"other": other}).items()}


def below(checkpoint: Any) -> str:
    assert isinstance(checkpoint, MergedCheckpoint)
    return str(checkpoint.base.path)


def open_all(*specs: PairSpec, **how: Any) -> list[inputs.PairJob]:
    return inputs.open_pairs(specs, split_fused=False, **how)


def test_what_is_analysed_is_the_merged_model(models: dict[str, str]) -> None:
    found, wanted = (
        open_all(PairSpec("p", models["base"], models[post]))[0].plan for post in ("one", "merged")
    )
    assert found.projections == wanted.projections
    assert found.coverage["analysed"] == wanted.coverage["analysed"]
    assert any("is a LoRA adapter, merged into" in note for note in found.notes)
    for one in wanted.projections:
        stacks = [read_stack(side, one, 0, 4) for side in (found.post, wanted.post, found.base)]
        np.testing.assert_array_equal(stacks[0], stacks[1])
        changed = one.name in ("q_proj", "down_proj")
        assert (stacks[0] != stacks[2]).any() == changed


def test_adapters_go_by_the_base_of_their_pair(models: dict[str, str]) -> None:
    (job,) = open_all(PairSpec("p", models["other"], models["one"], other=models["two"]))
    assert below(job.plan.post) == models["other"]
    assert job.other is not None
    assert below(job.other.base) == models["other"]
    (job,) = open_all(PairSpec("p", models["one"], models["two"]))
    assert below(job.plan.base) == below(job.plan.post) == models["base"]
    jobs = open_all(
        PairSpec("steps", models["one"], models["two"]),
        PairSpec("back", models["two"], models["one"]),
        PairSpec("first", models["other"], models["one"]),
        PairSpec("second", models["other"], models["two"]),
    )
    assert {below(one.plan.post) for one in jobs} == {models["other"]}
    assert below(jobs[0].plan.base) == models["other"]
    (job,) = open_all(PairSpec("p", models["other"], models["one"]), merge_base=models["base"])
    assert below(job.plan.post) == models["base"]


def test_one_adapter_has_one_base_in_a_sweep(models: dict[str, str]) -> None:
    with pytest.raises(InputError, match=r"that pairs give different bases, .*base and .*other"):
        open_all(*(PairSpec(name, models[name], models["one"]) for name in ("base", "other")))


def test_faults_of_adapters_are_told_with_the_others(
    models: dict[str, str], tmp_path: pathlib.Path
) -> None:
    odd = make_adapter(tmp_path / "odd", pathlib.Path(models["base"]))
    edit(odd, use_qalora=True)
    with pytest.raises(InputError) as caught:
        open_all(
            PairSpec("p", models["base"], str(odd)),
            PairSpec("q", "/no/such", models["one"]),
            PairSpec("r", models["base"], "/nor/this"),
        )
    text = str(caught.value)
    assert "use_qalora asks for QALoRA" in text
    assert "/no/such: no such directory" in text
    assert "/nor/this: no such directory" in text
