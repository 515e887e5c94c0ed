"""Models of which only parts are shared, other orders of layers, three checkpoints and more."""

from __future__ import annotations

import copy
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from svdjax import reference
from svdjax.atomic import write_json
from svdjax.checkpoint import load_params, model_config, open_checkpoint, save_checkpoint
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.run import fingerprint
from tests.fingerprint.harness import reorder_layers, rewritten, verdict
from tests.support import tiny
from tests.support.schemas import check

BASE, INSTRUCT, REASONING, PRIME = (
    reference.path(name) for name in ("base", "instruct", "reasoning", "base_prime")
)
LAYERS = 11


class Family:
    """Tiny llamas of eleven layers on disk, made from one another by changes of the tree."""

    def __init__(self, root: pathlib.Path):
        self.root = root
        self.one = tiny.make_checkpoint(root / "one", "llama", seed=1, num_hidden_layers=LAYERS)
        self.other = tiny.make_checkpoint(root / "other", "llama", seed=2, num_hidden_layers=LAYERS)
        with open_checkpoint(self.one) as checkpoint:
            self.config = model_config(checkpoint.path)
            self.raw = dict(checkpoint.config)
            self.tree = load_params(checkpoint, self.config)

    def write(self, name: str, tree: Any) -> pathlib.Path:
        return save_checkpoint(self.root / name, tree, self.raw, dtype="float32")

    def other_with(self, name: str, change: Callable[[Any, Any], None]) -> pathlib.Path:
        """The unrelated model after ``change(its tree, the first model's tree)``."""
        return rewritten(self.other, self.root / name, lambda tree, raw: change(tree, self.tree))


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return Family(tmp_path_factory.mktemp("family"))


def copy_layer(
    tree: Any, source: Any, here: int, there: int, modules: tuple[str, ...] = ("self_attn", "mlp")
) -> None:
    norms = {"self_attn": "input_layernorm", "mlp": "post_attention_layernorm"}
    for module in modules:
        tree["layers"][norms[module]]["scale"][here] = source["layers"][norms[module]]["scale"][
            there
        ]
        for name, leaves in tree["layers"][module].items():
            leaves["kernel"][here] = source["layers"][module][name]["kernel"][there]


def names(result: dict[str, Any]) -> list[str]:
    return [part["part"] for part in result["related_parts"]]


def test_one_layer_of_eleven_is_named(family):
    suspect = family.other_with("layer", lambda tree, source: copy_layer(tree, source, 3, 3))
    result = verdict(family.one, suspect)
    assert result["verdict"] == "partly related"
    assert result["direction"] == "unknown"
    # 1 of 11 layers: by itself the whole would be called unrelated.
    assert result["distance"] > 0.9
    assert names(result) == ["layers.3.self_attn", "layers.3.mlp"]
    assert all(part["distance"] < 1e-6 for part in result["related_parts"])
    assert [p["verdict"] for p in result["parts"]].count("unrelated") == len(result["parts"]) - 2


def test_a_layer_that_was_copied_elsewhere_and_a_module_are_named(family):
    def change(tree: Any, source: Any) -> None:
        copy_layer(tree, source, 7, 2)
        copy_layer(tree, source, 9, 9, ("mlp",))

    result = verdict(family.one, family.other_with("elsewhere", change))
    assert result["verdict"] == "partly related"
    assert names(result) == ["layers.7.self_attn", "layers.7.mlp", "layers.9.mlp"]
    assert [2, 7] in result["alignment"]["layers"]
    assert result["alignment"]["residual"] == "as it is"


def test_embeddings_alone_make_a_model_partly_related(family):
    def change(tree: Any, source: Any) -> None:
        tree["embed_tokens"] = source["embed_tokens"]

    result = verdict(family.one, family.other_with("embeddings", change))
    assert result["verdict"] == "partly related"
    assert names(result) == ["embeddings"]
    # Nothing else is, the head of its own included.
    assert {p["part"] for p in result["parts"]} >= {"embeddings", "head"}
    assert result["shared_training"]["kind"] is None


def test_swapped_layers_of_a_real_model_cost_nothing(tmp_path):
    def swap(tree: Any, raw: Any) -> None:
        reorder_layers(tree, [0, 3, 2, 1, 4])

    in_order = verdict(BASE, INSTRUCT)
    result = verdict(BASE, rewritten(INSTRUCT, tmp_path / "swapped", swap))
    assert result["verdict"] == "related"
    assert result["alignment"]["layers"] == [[0, 0], [3, 1], [2, 2], [1, 3], [4, 4]]
    # By number it would be 0.40: two of five layers are elsewhere.
    assert result["alignment"]["tried"]["as it is"]["distance"] > 0.35
    assert result["distance"] == pytest.approx(in_order["distance"], abs=1e-9)
    # One alignment more was tried for each rotation.
    assert len(result["alignment"]["tried"]) == 4
    assert in_order["shared_training"]["kind"] == "training"


def test_repeated_layers_go_with_the_layer_they_repeat(tmp_path):
    def deepen(tree: Any, raw: Any) -> None:
        reorder_layers(tree, [0, 1, 2, 3, 1, 2, 3, 4])
        raw["num_hidden_layers"] = 8

    result = verdict(BASE, rewritten(INSTRUCT, tmp_path / "deeper", deepen))
    assert result["verdict"] == "related"
    assert [here for here, _ in result["alignment"]["layers"]] == [0, 1, 2, 3, 1, 2, 3, 4]
    assert result["distance"] < 0.03
    # 8 layers of two modules, and the tied embeddings.
    assert len(result["related_parts"]) == 17


def planted(tree: Any, rng: np.random.Generator, size: float) -> Any:
    """The model after training of its own: each matrix gets directions beyond all others."""
    trained = copy.deepcopy(tree)
    for module in ("self_attn", "mlp"):
        for leaves in trained["layers"][module].values():
            for w in leaves["kernel"]:
                k = -(-min(w.shape) // 10)
                u, v = (np.linalg.qr(rng.standard_normal((n, k)))[0] for n in w.shape)
                w += (size * np.linalg.norm(w, 2) * u @ v.T).astype(w.dtype)
    return trained


def test_shared_initial_weights_are_told_from_shared_training(family):
    rng = np.random.default_rng(0)
    ours = planted(family.tree, rng, 4.0)
    trained = family.write("trained", ours)
    apart = verdict(trained, family.write("apart", planted(family.tree, rng, 4.0)))
    assert apart["verdict"] == "related"
    assert apart["shared_training"]["kind"] == "initial weights"
    on = verdict(trained, family.write("on", planted(ours, rng, 0.1)))
    assert on["shared_training"]["kind"] == "training"
    # Without training there are no directions of training to tell by.
    noisy = tiny.perturb(family.one, family.root / "noisy", noise=0.05)
    none = verdict(family.one, noisy)
    assert none["verdict"] == "related"
    assert none["shared_training"]["kind"] == "not decided"


def test_several_references_and_an_ancestor(family, tmp_path):
    out = "unused.json"
    several = fingerprint(FingerprintJob(f"{PRIME},{INSTRUCT},{BASE}", str(REASONING), out))
    assert several["reference"] == str(BASE)
    assert several["nearest"]["reference"] == str(BASE)
    assert several["nearest"]["next"] == str(INSTRUCT)
    assert [each["verdict"] for each in several["references"]] == [
        "unrelated",
        "related",
        "related",
    ]
    assert several["verdict"] == "related"
    line = fingerprint(FingerprintJob(str(INSTRUCT), str(REASONING), out, ancestor=str(BASE)))
    # Both were trained on from base.
    assert line["ancestor"]["between"] == "ancestor"
    # The verdict at the top is on the reference, though the ancestor is nearer.
    assert line["reference"] == str(INSTRUCT)
    assert line["nearest"]["reference"] == str(BASE)
    assert [each["role"] for each in line["references"]] == ["reference", "ancestor"]
    for result in (several, line):
        check(write_json(tmp_path / "verdict.json", result), "fingerprint")
