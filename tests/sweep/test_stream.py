"""Commands that read their models straight from a hub on loopback."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time

import numpy as np
import pytest

import svdjax
from svdjax.checkpoint import ranges
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.run import run_fingerprint
from svdjax.options import default_config
from svdjax.sweep.run import run_sweep
from tests.support import hub_server, tiny
from tests.support.commands import call
from tests.support.hub_server import TOKEN, Fault
from tests.support.schemas import check_files
from tests.support.workers import ThreadWorkers
from tests.sweep import harness

LEAVES = (
    "--config.group_bytes=1",
    "--config.stages=('spectra',)",
    "--config.measure=vectors",
)
STREAMED = ("--config=configs/pair.py:base=org/base,post=org/post", *LEAVES, "--stream")


@pytest.fixture(scope="module")
def local(square, tmp_path_factory):
    """The sweep of the same files, on disk."""
    workdir = tmp_path_factory.mktemp("local") / "W"
    base, post = square
    config = f"--config=configs/pair.py:base={base},post={post}"
    done = harness.sweep_here(config, *LEAVES, f"--workdir={workdir}")
    assert done.status == 0, done.err
    return workdir, done.computed


@pytest.fixture
def hub(square, tmp_path, monkeypatch):
    """A hub with the pair."""
    monkeypatch.setattr(ranges, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(ranges, "BLOCK", 1 << 12)
    with hub_server.serving(tmp_path / "cache", monkeypatch) as server:
        for name, path in zip(("base", "post"), square):
            server.commit(f"org/{name}", path)
        yield server


def assert_same(workdir, local):
    found, wanted = harness.spectra(workdir), harness.spectra(local[0])
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def move(hub, square, tmp_path):
    """Moves the branch of both to other weights; returns the commits before."""
    before = []
    for name, path in zip(("base", "post"), square):
        before.append(hub.find(f"org/{name}", "main")[0])
        hub.commit(f"org/{name}", tiny.perturb(path, tmp_path / f"moved-{name}", seed=77))
    return before


def test_a_streamed_sweep_has_the_same_numbers(hub, local, square, tmp_path):
    hub.faults = [
        Fault("safetensors", times=2, after=1, status=500),
        Fault("safetensors", times=2, after=5, cut=300),
    ]
    done = harness.sweep_here(*STREAMED, f"--workdir={tmp_path}/W")
    assert done.status == 0, done.err
    assert_same(tmp_path / "W", local)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    commits = {name: hub.find(f"org/{name}", "main")[0] for name in ("base", "post")}
    record = json.loads((tmp_path / "W" / "sweep.json").read_text())
    notes = json.loads((tmp_path / "W" / "pair" / "summary.json").read_text())["coverage"]["notes"]
    for name, commit in commits.items():
        inputs = record["inputs"][f"org/{name}"]
        assert inputs["model.safetensors"]["commit"] == commit
        assert f"org/{name}: read from the hub at commit {commit}, not downloaded" in notes
    assert check_files(tmp_path / "W") == {"sweep", "summary"}
    hub.log.clear()
    again = harness.sweep_here(*STREAMED, f"--workdir={tmp_path}/W")
    assert again.status == 0
    assert "already finished" in again.out


def test_a_stopped_sweep_goes_on_at_its_commits(hub, local, square, tmp_path):
    workdir = tmp_path / "W"
    groups = []

    def stop(words):
        groups.append(words)
        return sum("computed" in one or "group" in one for one in groups) > 3

    done = harness.sweep_here(*STREAMED, f"--workdir={workdir}", stop=stop)
    assert done.status == 143, (done.err, groups)
    commits = move(hub, square, tmp_path)
    kept = "--config.stream_cache_bytes=1000000"
    again = harness.sweep_here(*STREAMED, kept, f"--workdir={workdir}")
    assert again.status == 0, again.err
    assert_same(workdir, local)
    assert 0 < done.computed < local[1]
    assert done.computed + again.computed == local[1]
    record = json.loads((workdir / "sweep.json").read_text())["inputs"]
    found = [record[f"org/{name}"]["model.safetensors"]["commit"] for name in ("base", "post")]
    assert found == commits
    shutil.rmtree(workdir)
    fresh = harness.sweep_here(*STREAMED, f"--workdir={workdir}")
    assert fresh.status == 0
    record = json.loads((workdir / "sweep.json").read_text())["inputs"]
    assert record["org/post"]["model.safetensors"]["commit"] not in commits


def test_a_commit_that_is_gone_is_told(hub, square, tmp_path):
    stop = iter([False] * 12 + [True] * 1000)
    done = harness.sweep_here(*STREAMED, f"--workdir={tmp_path}/W", stop=lambda _: next(stop))
    assert done.status == 143
    commits = move(hub, square, tmp_path)
    for name, commit in zip(("base", "post"), commits):
        del hub._commits[f"org/{name}", commit]
    again = harness.sweep_here(*STREAMED, f"--workdir={tmp_path}/W")
    assert again.status == 2
    assert "org/base" in again.err


def test_workers_read_the_commits_of_their_sweep(hub, local, square, tmp_path, monkeypatch):
    class Later(ThreadWorkers):
        """Opens its sessions when the branches have moved."""

        def __init__(self, *arguments, **options):
            move(hub, square, tmp_path)
            super().__init__(*arguments, **options)

    monkeypatch.setattr("svdjax.engine.work.ray.RayWorkers", Later)
    pairs = {"pair": {"base": "org/base", "post": "org/post"}}
    config = default_config("pair", pairs)
    with config.unlocked():
        config.update(stream=True, group_bytes=1, measure="vectors", stages=("spectra",), devices=1)
    run_sweep(config, tmp_path / "W", workers="ray")
    assert_same(tmp_path / "W", local)


def test_a_dry_run_fetches_headers_only(hub, tmp_path):
    done = harness.sweep_here(*STREAMED, "--dry_run", f"--workdir={tmp_path}/W")
    assert done.status == 0, done.err
    assert "org/base -> org/post" in done.out
    assert not (tmp_path / "W").exists()
    asked = [one for one in hub.asked("model.safetensors") if one.range]
    assert sum(one.count for one in asked) <= 2 * 2 * ranges.BLOCK, "two blocks have the header"


def test_files_and_the_hub_are_other_inputs(hub, square, tmp_path):
    done = harness.sweep_here(*STREAMED, f"--workdir={tmp_path}/W")
    assert done.status == 0
    other = STREAMED[:-1]
    hub.log.clear()
    again = harness.sweep_here(*other, f"--workdir={tmp_path}/W")
    assert again.status == 2
    assert "other input files" in again.err
    assert "commit" in again.err


def test_values_that_are_none_are_found_when_they_are_read(hub, square, tmp_path):
    post = tmp_path / "post"
    shutil.copytree(square[1], post)
    tensors = tiny.read_tensors(post)
    name = "model.layers.2.self_attn.k_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][3, 4] = np.nan
    config = json.loads((post / "config.json").read_text())
    tiny.write_checkpoint(post, config, tensors)
    commit = hub.commit("org/post", post)
    done = harness.sweep_here(*STREAMED, f"--workdir={tmp_path}/W")
    assert done.status == 2
    assert f"org/post@{commit}/model.safetensors" in done.err
    assert name in done.err
    assert "Traceback" not in done.err


def test_compare_and_python_stream_too(hub, square, tmp_path):
    options = ["--config.measure=vectors", "--config.devices=1", f"--out={tmp_path}/W"]
    done = call("compare", "org/base", str(square[1]), "--stream", *options)
    assert done.status == 0, done.err
    assert hub.asked("org/base/resolve")
    comparison = svdjax.compare("org/base", "org/post", measure="vectors", devices=1, stream=True)
    wanted = svdjax.compare(*square, measure="vectors", devices=1)
    for name in wanted.projections:
        np.testing.assert_array_equal(comparison[name].nf, wanted[name].nf)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_fingerprints_stream_too(hub, square, tmp_path):
    files = [tmp_path / "here.json", tmp_path / "there.json"]
    run_fingerprint(FingerprintJob(str(square[0]), str(square[1]), str(files[0]), devices=1))
    job = FingerprintJob("org/base", "org/post", str(files[1]), devices=1, stream=True)
    run_fingerprint(job)
    here, there = (json.loads(file.read_text()) for file in files)
    for name in ("verdict", "distance", "p_value", "projections"):
        assert there[name] == here[name]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_constructions_stream_too(hub, square, tmp_path):
    options = ["--construction=eq9", "--alpha=0.9", "--devices=1"]
    pairs = {"here": [str(path) for path in square], "there": ["org/base", "org/post"]}
    for out, (base, post) in pairs.items():
        models = [f"--base={base}", f"--post={post}", f"--out={tmp_path / out}"]
        done = call("construct", *models, *options, *["--stream"] * (out == "there"))
        assert done.status == 0, done.err
    here, there = (tmp_path / out / "model.safetensors" for out in pairs)
    assert there.read_bytes() == here.read_bytes()
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    dry = call("construct", *models, *options, "--stream", "--dry_run", "--overwrite")
    assert dry.status == 0, dry.err


def test_a_killed_process_goes_on_from_a_hub_that_fails(hub, local, square, env, tmp_path):
    hub.gated |= {"org/base", "org/post"}
    cache, workdir = tmp_path / "home", tmp_path / "W"
    most = 10_000
    env = env | hub_server.environment(hub, cache) | {"HF_TOKEN": TOKEN}
    arguments = [*STREAMED, "--config.devices=1", f"--stream_cache_bytes={most}"]
    # The smallest tensors come in blocks of 256 KiB here: a single request for each file.
    hub.faults = [Fault("safetensors", times=1, status=503, headers={"Retry-After": "0"})]
    hub.faults += [Fault("safetensors", times=1, after=1, cut=2000)]
    process = harness.start(env, *arguments, f"--workdir={workdir}")
    journal = workdir / ".journal" / "pair"
    while process.poll() is None and not list(journal.glob("*.npz")):
        time.sleep(0.001)
    process.kill()
    done = harness.finish(process)
    assert done.status == -signal.SIGKILL, done.err
    move(hub, square, tmp_path)
    again = harness.sweep(env, *arguments, f"--workdir={workdir}")
    assert again.status == 0, again.err
    assert_same(workdir, local)
    assert TOKEN not in done.err + again.err + again.out
    assert "HTTP Request" not in done.err + again.err
    assert all(one.token == f"Bearer {TOKEN}" for one in hub.asked("model.safetensors"))
    assert sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) < most + 20_000
    assert not list(cache.glob("svdjax-stream-*"))
    assert not re.search(TOKEN, (workdir / "sweep.json").read_text())
