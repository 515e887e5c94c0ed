"""A sweep of a mixture of experts: from files to arrays by layer and expert, all or some."""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
from typing import Any

import numpy as np
import pytest

from svdjax.atomic import read_npz
from svdjax.checkpoint.experts import choose_experts
from svdjax.errors import InputError
from svdjax.options import default_config
from svdjax.spectra.results import Comparison
from svdjax.sweep import pages
from svdjax.sweep.dry_run import dry_run
from svdjax.sweep.run import run_sweep
from tests.support import header_only, tiny
from tests.support.schemas import check_files
from tests.sweep import harness

LAYERS, DENSE, EXPERTS, CHOSEN, WIDTH = 4, 1, 6, 3, 16
NUMBERS = choose_experts(EXPERTS, CHOSEN)
CONFIG = {
    "model_type": "deepseek_v3",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "n_routed_experts": EXPERTS,
}


def matrices(seed: int) -> dict[str, np.ndarray]:
    """A dense layer and layers of experts, all of one shape, in float32."""
    rng = np.random.default_rng(seed)
    names = []
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        names += [f"{at}self_attn.q_proj.weight", f"{at}self_attn.o_proj.weight"]
        inner = [""] if layer < DENSE else [f"experts.{expert}." for expert in range(EXPERTS)]
        names += [
            f"{at}mlp.{each}{part}_proj.weight" for each in inner for part in ("gate", "up", "down")
        ]
    return {name: rng.standard_normal((WIDTH, WIDTH)).astype(np.float32) for name in names}


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    root, base = tmp_path_factory.mktemp("mixture"), matrices(1)
    post = {name: 0.95 * base[name] + 0.05 * noise for name, noise in matrices(2).items()}
    return (
        tiny.write_checkpoint(root / "base", CONFIG, base),
        tiny.write_checkpoint(root / "post", CONFIG, post),
    )


def config(pair: tuple[pathlib.Path, pathlib.Path], **leaves: Any) -> Any:
    base, post = map(str, pair)
    leaves = {"stages": ("spectra", "nulls", "report"), "nulls": {"draws": 19}} | leaves
    size = 2 * 4 * WIDTH * WIDTH * 4
    return default_config(
        "mixture", {"pair": {"base": base, "post": post}}, devices=1, group_bytes=size, **leaves
    )


@pytest.fixture(scope="module")
def made(pair, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("sweep") / "W"
    run_sweep(config(pair, experts=str(CHOSEN)), workdir, pages)
    return workdir


def test_arrays_are_by_layer_and_expert_and_are_numpys(made, pair):
    spectra = harness.spectra(made)
    name = "experts.gate_proj"
    assert spectra[f"{name}/nf"].shape == (LAYERS - DENSE, CHOSEN)
    # The dense layer's is another projection.
    assert spectra["gate_proj/nf"].shape == (DENSE,)
    for i, layer in enumerate(range(DENSE, LAYERS)):
        for j, expert in enumerate(NUMBERS):
            tensor = f"model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight"
            expected = harness.expected(*(harness.tensor(side, tensor) for side in pair))
            # Float64 Gram matrices of well-conditioned ones.
            np.testing.assert_allclose(
                spectra[f"{name}/sigma_post"][i, j], expected["sigma_post"], rtol=1e-10
            )
            np.testing.assert_allclose(spectra[f"{name}/nf"][i, j], expected["nf"], rtol=1e-6)
    result = Comparison.load(made / "pair")[name]
    assert result.layer_numbers == tuple(range(DENSE, LAYERS))
    assert result.expert_numbers == NUMBERS


def test_what_was_left_out_is_said_everywhere(made):
    check_files(made)
    summary = json.loads((made / "pair" / "summary.json").read_text())
    left_out = summary["coverage"]["left_out"]
    others = {expert for expert in range(EXPERTS) if expert not in NUMBERS}
    assert {int(re.findall(r"experts\.(\d+)", name)[0]) for name in left_out} == others
    assert len(left_out) == 3 * len(others) * (LAYERS - DENSE)
    assert summary["options"]["experts"] == str(CHOSEN)
    assert any(f"{CHOSEN} of {EXPERTS} experts" in note for note in summary["coverage"]["notes"])
    state = json.loads((made / "sweep.json").read_text())
    assert state["config"]["experts"] == str(CHOSEN)


def test_nulls_are_by_layer_and_expert_too(made):
    stored = read_npz(made / "pair" / "nulls.npz")
    name, layers = "experts.up_proj", LAYERS - DENSE
    assert stored[f"{name}/nf"].shape == (layers, CHOSEN)
    assert stored[f"{name}/nf_signs"].shape == (layers, CHOSEN, 19)
    assert stored[f"{name}/sampled"].sum() == 3
    np.testing.assert_array_equal(stored[f"{name}/nf"], harness.spectra(made)[f"{name}/nf"])
    record = json.loads((made / "pair" / "nulls.json").read_text())["projections"][name]
    assert (record["layers"], record["experts"]) == (layers, CHOSEN)
    assert record["layer_numbers"] == list(range(DENSE, LAYERS))
    text = (made / "pair" / "tables" / "nulls_layers.csv").read_text()
    assert text.startswith("projection,layer,expert,")
    page = (made / "report.html").read_text()
    assert re.search(r"layer \d, expert \d, layer \d, expert \d and layer \d, expert \d", page)


def test_another_choice_is_another_sweep(made, pair):
    with pytest.raises(InputError, match="experts"):
        run_sweep(config(pair, experts="2"), made, pages)


def test_a_dry_run_says_how_many(pair):
    assert re.search(r"experts\.gate_proj +16x16 +3x3 ", dry_run(config(pair, experts="3")))
    text = dry_run(config(pair))
    assert re.search(r"experts\.gate_proj +16x16 +3x6 ", text)
    assert "config.experts" not in text


@pytest.mark.slow
def test_planning_45000_matrices_takes_little_memory(tmp_path):
    """DeepSeek-V3 by its headers: 0.3 GB and 5 s of planning when this was written."""
    for side in ("base", "post"):
        header_only.write(tmp_path / side, header_only.CONFIG)
    command = [sys.executable, "-m", "svdjax.sweep", "--dry_run"]
    argument = f"--config=pair:base={tmp_path / 'base'},post={tmp_path / 'post'}"
    with (tmp_path / "log").open("w+") as log:
        process = os.posix_spawn(
            sys.executable,
            [*command, argument],
            harness.environment(),
            file_actions=[(os.POSIX_SPAWN_DUP2, log.fileno(), 1)],
        )
        _, status, usage = os.wait4(process, 0)
        assert status == 0
        log.seek(0)
        text = log.read()
    assert re.search(r"experts\.down_proj +2048x7168 +58x256 +14848 ", text)
    assert "45002 groups" in text
    assert usage.ru_maxrss < 1 << 20
