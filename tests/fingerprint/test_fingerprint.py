"""`python -m svdjax.fingerprint`: real checkpoints and processes, what can be compared and how."""

from __future__ import annotations

import json
import pathlib
import re
import subprocess
import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest

from svdjax import reference
from svdjax.checkpoint import load_params, model_config, open_checkpoint
from svdjax.engine.work import ray
from svdjax.errors import InputError, WorkersLost
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.run import run_fingerprint
from svdjax.model import forward
from tests.fingerprint.harness import disguised, reorder_layers, rewritten, verdict
from tests.report.pages import assert_self_contained
from tests.support import tiny
from tests.support.schemas import check

BASE, INSTRUCT, REASONING, PRIME = map(
    reference.path, ("base", "instruct", "reasoning", "base_prime")
)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    """Fully disguised suspects, rounded and with noise too."""
    root = tmp_path_factory.mktemp("disguised")
    return {
        "all": disguised(INSTRUCT, root / "all", "all"),
        "rough": disguised(INSTRUCT, root / "rough", "all", "bf16", "noise"),
        "apart": disguised(PRIME, root / "apart", "all"),
    }


@pytest.mark.parametrize("name", ["all", "rough"])
def test_all_disguises_together_are_survived(name, everything):
    found = verdict(BASE, everything[name])
    assert found["verdict"] == "related"
    assert found["log10_p_value"] < -100
    # 0.023 undisguised, 0.01 more for the rotation and another 0.01 for noise of 1 %.
    assert found["distance"] < 0.06
    moved = found["alignment"]
    assert moved["residual"] == "embeddings"
    assert moved["neurons_agree"] == moved["heads_agree"] == 1
    assert moved["neurons_moved"] == 1


@pytest.mark.parametrize("name", ["as it is", "all"])
def test_what_was_trained_apart_is_unrelated_under_alignment_too(name, everything):
    found = verdict(BASE, PRIME if name == "as it is" else everything["apart"])
    assert found["verdict"] == "unrelated"
    # 0.986: two models of like data share a direction or two, no more.
    assert found["distance"] > 0.97
    # As they are; under the rotation that was found from them embeddings of like data agree more.
    assert next(p for p in found["parts"] if p["part"] == "embeddings")["distance"] > 0.99
    assert set(found["alignment"]["tried"]) == {"as it is", "embeddings", "weights"}


def test_replaced_embeddings_leave_the_weights_to_find_the_rotation(everything, tmp_path):
    rng = np.random.default_rng(0)

    def replace(tree: Any, raw: Any) -> None:
        for path in (("embed_tokens", "embedding"), ("lm_head", "kernel")):
            leaf = tree[path[0]][path[1]]
            leaf[...] = leaf.std() * rng.standard_normal(leaf.shape)

    found = verdict(BASE, rewritten(everything["all"], tmp_path / "replaced", replace))
    assert found["verdict"] == "related"
    assert found["alignment"]["residual"] == "weights"
    # Fitted to matrices of whole blocks, it is better than the embeddings' (0.032).
    assert found["distance"] < 0.03


def test_pruned_layers_and_other_tokens(everything, tmp_path):
    def prune(tree: Any, raw: Any) -> None:
        reorder_layers(tree, [0, 1, 3])
        raw["num_hidden_layers"] = 3
        # 40 tokens more, and no tokenizer: the rows that both have are the common ones.
        extra = np.random.default_rng(1).standard_normal((40, raw["hidden_size"]))
        tree["embed_tokens"]["embedding"] = np.vstack([tree["embed_tokens"]["embedding"], extra])
        tree["lm_head"]["kernel"] = np.hstack([tree["lm_head"]["kernel"], extra.T])
        raw["vocab_size"] += 40

    found = verdict(BASE, rewritten(everything["all"], tmp_path / "pruned", prune))
    assert found["verdict"] == "related"
    assert found["alignment"]["layers"] == [[0, 0], [1, 1], [3, 2]]
    assert found["alignment"]["tokens"] == {"common": 896, "matched_by": "row"}
    assert any("num_layers is 5 and 3" in note for note in found["notes"])


def test_another_order_of_tokens_is_read_from_the_tokenizers(tmp_path):
    suspect = disguised(INSTRUCT, tmp_path / "rotated", "rotation")
    order = np.random.default_rng(2).permutation(896)

    def reorder(tree: Any, raw: Any) -> None:
        tree["embed_tokens"]["embedding"] = tree["embed_tokens"]["embedding"][order]
        tree["lm_head"]["kernel"] = tree["lm_head"]["kernel"][:, order]

    shuffled = rewritten(suspect, tmp_path / "shuffled", reorder)
    fields = json.loads((INSTRUCT / "tokenizer.json").read_text())
    place = np.argsort(order)
    fields["model"]["vocab"] = {t: int(place[i]) for t, i in fields["model"]["vocab"].items()}
    for token in fields["added_tokens"]:
        token["id"] = int(place[token["id"]])
    (shuffled / "tokenizer.json").write_text(json.dumps(fields))
    found = verdict(BASE, shuffled)
    assert found["verdict"] == "related"
    assert found["alignment"]["residual"] == "embeddings"
    assert found["alignment"]["tokens"] == {"common": 896, "matched_by": "token"}


@pytest.mark.parametrize("family", ["gemma2", "phi3", "olmo2"])
def test_families_of_other_layouts(family, tmp_path):
    base = tiny.make_checkpoint(tmp_path / "base", family, seed=1)
    post = tiny.perturb(base, tmp_path / "post", noise=0.05)
    suspect = disguised(post, tmp_path / "suspect", "all")
    with open_checkpoint(post) as one, open_checkpoint(suspect) as other:
        sides = [(load_params(c, model_config(c.path)), model_config(c.path)) for c in (one, other)]
    tokens = np.arange(24, dtype=np.int32).reshape(2, 12)
    logits = [np.asarray(forward(params, config, tokens)) for params, config in sides]
    # float32 logits of rounded weights: up to 6e-6 was seen in any family.
    assert np.abs(logits[0] - logits[1]).max() < 1e-4 * np.abs(logits[0]).max()
    found = verdict(base, suspect)
    assert found["verdict"] == "related"
    # Noise of 5 % turns a square random matrix by some per cent, condition numbers being large.
    assert found["distance"] < 0.2
    assert verdict(base, tiny.make_checkpoint(tmp_path / "apart", family, seed=2))["verdict"] == (
        "unrelated"
    )


def test_what_has_another_width_inside_is_compared_as_far_as_it_goes(tmp_path):
    base = tiny.make_checkpoint(tmp_path / "base", "llama", seed=1)
    other = tiny.make_checkpoint(tmp_path / "other", "llama", seed=1, intermediate_size=80)
    found = verdict(base, other)
    assert set(found["projections"]) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert found["verdict"] == "related"
    assert any("feed-forward part is not compared" in note for note in found["notes"])


def test_a_file_that_cannot_be_written_is_found_before_the_work(tmp_path):
    (tmp_path / "mine").write_text("")
    job = FingerprintJob(str(BASE), str(INSTRUCT), str(tmp_path / "mine" / "verdict.json"))
    with (
        mock.patch("svdjax.fingerprint.run._judged", side_effect=AssertionError),
        pytest.raises(InputError, match="mine cannot be written"),
    ):
        run_fingerprint(job)


def test_what_cannot_be_compared_is_refused(tmp_path):
    base = tiny.make_checkpoint(tmp_path / "base", "llama")
    wide = tiny.make_checkpoint(tmp_path / "wide", "llama", hidden_size=96)
    with pytest.raises(InputError, match="cannot be compared because hidden_size is 64 and 96"):
        verdict(base, wide)
    none = tiny.make_checkpoint(
        tmp_path / "none", "llama", num_key_value_heads=4, intermediate_size=80
    )
    with pytest.raises(InputError, match="cannot be compared because num_kv_heads is 2 and 4"):
        verdict(base, none)
    config = json.loads((wide / "config.json").read_text()) | {"model_type": "gpt_oss"}
    (wide / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="model_type is 'gpt_oss'") as caught:
        verdict(base, wide)
    assert "\n" not in str(caught.value)


def test_the_file_is_exactly_that_and_the_page_lies_beside(tmp_path):
    out = tmp_path / "new folder" / "verdict.of.mine"
    outcome = run_fingerprint(FingerprintJob(str(BASE), str(INSTRUCT), str(out)), page=True)
    assert {path.name for path in out.parent.iterdir()} == {"verdict.of.mine", "verdict.of.html"}
    stored = json.loads(out.read_text())
    assert stored["format_version"] == 1
    assert stored["verdict"] == "related"
    assert {"distance", "p_value", "alignment", "projections"} <= stored.keys()
    assert len(stored["projections"]["q_proj"]["by_layer"]) == 5
    assert "independent" in stored["assumption"]
    page = assert_self_contained(out.parent / "verdict.of.html").text
    assert "Verdict: related" in page
    assert "two checkpoints do not tell which" in page
    assert "layers.4.mlp" in page
    assert "By reference" not in page
    assert outcome.text().splitlines()[-2:] == [str(out), str(out.with_suffix(".html"))]
    # A finished file is replaced, here by one on several references; what a killed one left goes.
    (out.parent / ".svdjax-x1y2.tmp").write_bytes(b"{")
    job = FingerprintJob(f"{PRIME},{BASE}", str(INSTRUCT), str(out))
    text = run_fingerprint(job, page=True).text()
    assert text.startswith(f"Of 2 references, on {BASE}:\nrelated: ")
    assert f"Nearest: {BASE}, at 0.02 of" in text
    assert {path.name for path in out.parent.iterdir()} == {"verdict.of.mine", "verdict.of.html"}
    assert json.loads(out.read_text())["nearest"]["reference"] == str(BASE)
    check(out, "fingerprint")
    page = (out.parent / "verdict.of.html").read_text()
    assert "By reference" in page
    assert "Nearest: " in page


def test_the_command(tmp_path, env):
    out = tmp_path / "verdict.json"
    flags = (f"--reference={BASE}", f"--suspect={INSTRUCT}", f"--out={out}")
    done = subprocess.run(
        [sys.executable, "-m", "svdjax.fingerprint", *flags],
        capture_output=True,
        text=True,
        timeout=120,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("related: ")
    assert "less than one in a trillion" in done.stdout
    assert done.stdout.splitlines()[-2:] == [str(out), str(out.with_suffix(".html"))]
    assert json.loads(out.read_text())["verdict"] == "related"


class Fed:
    """Stands for `RayWorkers`: a session in this process, which is handed the last unit first."""

    remote, count = True, 2

    def __init__(self, open_session, arguments, expected, *, devices, stop):
        self.failed: dict[str, str] = {}
        self._session = open_session(*arguments)
        about = self._session.about()
        assert {name: about[name] for name in expected} == expected
        assert len(about["devices"]) == devices

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session.close()

    def open(self, check):
        check("waiting for workers")

    def do(self, work, units, check, shared=None):
        return self._session.work(work.name, shared).compute(reversed(units), check)


def test_workers_give_the_same_verdict(tmp_path):
    paths = (tmp_path / "here.json", tmp_path / "there.json")
    here, there = (
        FingerprintJob(str(INSTRUCT), str(REASONING), str(path), devices=2, ancestor=str(BASE))
        for path in paths
    )
    run_fingerprint(here)
    with mock.patch.object(ray, "RayWorkers", Fed):
        run_fingerprint(there, workers="ray")
    texts = [re.sub(r'"seconds": [\d.]+', "", path.read_text()) for path in paths]
    assert texts[0] == texts[1]
    assert json.loads(paths[1].read_text())["ancestor"]["source"] == str(BASE)


def test_a_pair_that_workers_died_of_is_told_and_nothing_is_written(tmp_path):
    class Dead(Fed):
        def do(self, work, units, check, shared=None):
            self.failed[units[0].key] = f"{units[0].label}: 3 workers died of it"
            return iter(())

    job = FingerprintJob(str(BASE), str(INSTRUCT), str(tmp_path / "verdict.json"))
    with (
        mock.patch.object(ray, "RayWorkers", Dead),
        pytest.raises(WorkersLost, match=f"{BASE} and {INSTRUCT}: 3 workers died of it"),
    ):
        run_fingerprint(job, workers="ray")
    assert not list(tmp_path.iterdir())


def test_refused_checkpoints_leave_nothing(tmp_path):
    wide = tiny.make_checkpoint(tmp_path / "wide", "qwen2", hidden_size=96)
    out = tmp_path / "results" / "verdict.json"
    # All pairs are opened before any is computed: the third of these is refused.
    usual: dict[str, Any] = {"reference": str(BASE), "out": str(out)}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"suspect": str(tmp_path / "nowhere")}, "no such directory"),
        ({"suspect": str(wide)}, "cannot be compared because hidden_size is 128 and 96"),
        ({"reference": f"{BASE},{wide}", "suspect": str(INSTRUCT)}, "hidden_size is 96 and 128"),
    ]
    for sources, words in cases:
        with pytest.raises(InputError, match=words) as caught:
            run_fingerprint(FingerprintJob(**(usual | sources)))
        assert "\n" not in str(caught.value)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"suspect": ""}, "--suspect is not given"),
        ({"out": "."}, "is a directory"),
        ({"out": "x.html"}, "expected the name of the JSON file"),
        ({"derived": 0.95}, "0 < derived <= unrelated"),
        ({"p_value": 0.0}, "--p_value=0"),
        ({"devices": -1}, "--devices=-1"),
        ({"reference": "a,"}, "a name between commas is empty"),
        ({"reference": "a,a"}, "names a checkpoint twice"),
        ({"reference": "a,c", "ancestor": "d"}, "with 2 references: expected one reference"),
        ({"ancestor": "a"}, "expected a third checkpoint"),
        ({"ancestor": "b"}, "expected a third checkpoint"),
    ],
)
def test_flags_are_checked_before_anything_is_opened(changes, words):
    given: dict[str, Any] = {"reference": "a", "suspect": "b", "out": "c.json"}
    with pytest.raises(InputError, match=words):
        FingerprintJob(**(given | changes))


def test_help_and_flag_errors_do_without_jax():
    code = (
        "import runpy, sys; sys.argv = ['fingerprint', *sys.argv[1:]]\n"
        "try: runpy.run_module('svdjax.fingerprint', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: print('status', stop.code, 'jax' in sys.modules)"
    )
    given = ("--reference=a", "--suspect=b", "--out=c.json")
    for flags, status in ((["--help"], 0), ([*given, "--derived=2"], 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, *flags], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.splitlines()[-1] == f"status {status} False", done.stderr
