"""The command on checkpoints it has never seen, against the equations in plain numpy."""

from __future__ import annotations

import json
import shutil
from typing import Any

import numpy as np
import pytest

import svdjax
from tests.support import novel as models
from tests.support import tiny
from tests.support.schemas import check_files
from tests.sweep import harness

FAMILIES = ("qwen2", "llama", "mistral", "gemma2", "phi3")
PLACES = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "qkv_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
    "gate_up_proj": "mlp",
}


@pytest.fixture(scope="module")
def swept(pair_of, tmp_path_factory):
    """Sweeps (once) the pair of a family."""
    made = {}

    def sweep(name):
        if name not in made:
            base, post = pair_of(name)
            workdir = tmp_path_factory.mktemp(name) / "W"
            done = harness.sweep_here(
                f"--config=configs/pair.py:base={base},post={post}",
                f"--workdir={workdir}",
                "--config.stages=('spectra',)",
                "--config.measure=vectors",
            )
            assert done.status == 0, done.err
            made[name] = workdir, done
        return made[name]

    return sweep


@pytest.fixture(scope="module")
def reported(env, tmp_path_factory):
    """The folder of a pair of few matrices, swept by a process with all that is the default."""
    root = tmp_path_factory.mktemp("reported")
    models.family(root, ["post"], layers=1, width=16)
    done = harness.sweep(
        env,
        f"--config=configs/pair.py:base={root / 'base'},post={root / 'post'}",
        f"--workdir={root / 'W'}",
    )
    assert done.status == 0, done.err
    return root, done


@pytest.mark.parametrize("family", FAMILIES)
def test_spectra_agree_with_the_equations(family, pair_of, swept):
    base, post = pair_of(family)
    workdir, done = swept(family)
    assert "report.html" not in done.out
    assert not (workdir / "pair" / "report.html").exists()
    assert len(done.out.splitlines()) < 10
    assert harness.leftovers(workdir) == []
    arrays = harness.spectra(workdir)
    summary = json.loads((workdir / "pair" / "summary.json").read_text())
    assert summary["family"] == family
    assert set(summary["projections"]) == (
        {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
        if family == "phi3"
        else set(PLACES) - {"qkv_proj", "gate_up_proj"}
    )
    for name, entry in summary["projections"].items():
        ratios = []
        for layer in range(entry["layers"]):
            tensor = f"model.layers.{layer}.{PLACES[name]}.{name}.weight"
            wanted = harness.expected(harness.tensor(base, tensor), harness.tensor(post, tensor))
            assert entry["shape"] == list(harness.tensor(base, tensor).shape)
            ratios.append(wanted["svsm"])
            _compare_layer(arrays, name, layer, wanted)
        top = np.stack(ratios)[:, : int(0.9 * min(entry["shape"]))]
        assert entry["alpha_mean"] == pytest.approx(top.mean(), rel=1e-6)
        assert entry["alpha_std"] == pytest.approx(top.std(), rel=1e-6)
        assert entry["alpha_prime"] == pytest.approx(round(top.mean(), 1))
        unrelated = np.sqrt(1 / entry["shape"][0] + 1 / entry["shape"][1])
        assert entry["nf_unrelated"] == pytest.approx(unrelated)
        assert arrays[f"{name}/nf_unrelated"] == pytest.approx(unrelated)


def _compare_layer(arrays, name, layer, wanted):
    for side in ("sigma_base", "sigma_post"):
        found = arrays[f"{name}/{side}"][layer]
        # The contract's tolerance; float64 leaves about 1e-15.
        np.testing.assert_allclose(found, wanted[side], rtol=0, atol=1e-5 * wanted[side][0])
        assert (np.diff(found) <= 0).all()
    np.testing.assert_allclose(arrays[f"{name}/svsm"][layer], wanted["svsm"], rtol=1e-8)
    np.testing.assert_allclose(arrays[f"{name}/nf"][layer], wanted["nf"], rtol=1e-4, atol=1e-6)
    for key in ("sim_u", "sim_v"):
        found = arrays[f"{name}/{key}"][layer]
        corner = wanted[key][: len(found), : len(found)]
        # Vectors move by eps / gap; random spectra of this size have gaps above 1e-6.
        np.testing.assert_allclose(found, corner, atol=1e-7)


def test_a_report_is_drawn_and_named(reported):
    root, done = reported
    assert str(root / "W" / "report.html") in done.out
    assert (root / "W" / "pair" / "report.html").is_file()
    assert len(done.out.splitlines()) < 10
    assert harness.leftovers(root / "W") == []


def test_figures_of_a_finished_sweep_are_drawn_without_computing(reported, tmp_path):
    root, _ = reported
    workdir = shutil.copytree(root / "W", tmp_path / "W")
    assert not list(workdir.glob("**/figures"))
    done = harness.sweep_here(
        f"--config=configs/pair.py:base={root / 'base'},post={root / 'post'}",
        "--config.report.figures=svg",
        "--config.devices=0",
        f"--workdir={workdir}",
    )
    assert done.status == 0, done.err
    assert (workdir / "pair" / "figures" / "svsm.svg").is_file()
    assert (workdir / "figures" / "pairs_nf.svg").is_file()
    for name in ("spectra.npz", "vectors.npz"):
        before, after = ((folder / "pair" / name).stat() for folder in (root / "W", workdir))
        assert before.st_mtime_ns == after.st_mtime_ns


def test_sweep_json_says_how_it_was_made(reported):
    base, post, workdir = (reported[0] / name for name in ("base", "post", "W"))
    record = json.loads((workdir / "sweep.json").read_text())
    assert record["format_version"] == 1
    assert record["status"] == "done"
    assert record["config"]["pairs"]["pair"]["base"] == str(base)
    assert record["config"]["corner"] == 25
    assert set(record["versions"]) == {"svdjax", "jax", "jaxlib", "numpy", "scipy", "python"}
    assert record["devices"] == ["cpu:0 cpu"]
    assert set(record["inputs"]) == {str(base), str(post)}
    for stage in ("validate", "spectra", "report"):
        assert record["stages"][stage]["status"] == "done"
        assert record["stages"][stage]["seconds"] >= 0
    coverage = json.loads((workdir / "pair" / "summary.json").read_text())["coverage"]
    assert set(coverage) >= {"analysed", "left_out"}


def test_every_json_file_is_as_its_schema_says(reported):
    assert check_files(reported[0] / "W") == {"sweep", "summary", "table"}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Two tiny checkpoints with matrices of two shapes, one of them long."""
    root = tmp_path_factory.mktemp("narrow")
    sizes: dict[str, Any] = harness.SQUARE | {"intermediate_size": 48}
    base = tiny.make_checkpoint(root / "base", "llama", seed=11, **sizes)
    return base, tiny.perturb(base, root / "post", seed=12)


def test_two_devices_give_what_one_gives(narrow, tmp_path):
    base, post = narrow
    for count in (1, 2):
        done = harness.sweep_here(
            f"--config=configs/pair.py:base={base},post={post}",
            f"--config.devices={count}",
            f"--workdir={tmp_path}/{count}",
            "--config.stages=('spectra',)",
            "--config.measure=vectors",
        )
        assert done.status == 0, done.err
        devices = json.loads((tmp_path / f"{count}" / "sweep.json").read_text())["devices"]
        assert len(devices) == count
    one, both = (harness.spectra(tmp_path / count) for count in "12")
    assert set(one) == set(both)
    for key, value in one.items():
        # Another loop length lets XLA fuse otherwise: rounding, nothing more.
        np.testing.assert_allclose(both[key], value, rtol=1e-9, atol=1e-11, err_msg=key)


def test_compare_in_memory_is_the_sweep(pair_of, swept):
    base, post = pair_of("mistral")
    result = svdjax.compare(base, post, devices=1, measure="vectors")
    stored = svdjax.Comparison.load(swept("mistral")[0] / "pair")
    assert list(result.projections) == list(stored.projections)
    assert result.summary()["coverage"] == stored.summary()["coverage"]
    for name, projection in result.projections.items():
        for mine, theirs in zip(projection.metrics, stored[name].metrics):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11)


def test_each_bucket_shape_is_traced_once(narrow):
    from svdjax.spectral import kernels

    base, post = narrow
    traced: Any = kernels._analyse.program
    before = traced._cache_size()
    # A corner of its own, so that nothing else has compiled these.
    result = svdjax.compare(base, post, devices=2, group_bytes=1, corner=7, measure="vectors")
    # A matrix and its transpose are one to the kernels.
    shapes = {tuple(sorted(one.shape)) for one in result.projections.values()}
    assert len(shapes) == 2
    assert traced._cache_size() - before == len(shapes)


def test_dry_run_writes_nothing(pair_of, tmp_path):
    base, post = pair_of("phi3")
    done = harness.sweep_here(
        f"--config=configs/pair.py:base={base},post={post}",
        f"--workdir={tmp_path}/W",
        "--dry_run",
    )
    assert done.status == 0, done.err
    assert list(tmp_path.iterdir()) == []
    assert "qkv_proj" in done.out
    assert "predicted time" in done.out


def test_dry_run_downloads_nothing(env):
    online = {key: value for key, value in env.items() if key != "HF_HUB_OFFLINE"}
    done = harness.sweep(online, "--config=configs/pair.py:base=org/a,post=org/b", "--dry_run")
    assert done.status == 2, done.err
    assert "org/a, org/b" in done.err
    assert "downloads nothing" in done.err
    assert len(done.err.splitlines()) == 1
