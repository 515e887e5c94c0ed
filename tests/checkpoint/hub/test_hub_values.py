"""Weights read straight from a hub on loopback: equal values, tokens, the disk."""

from __future__ import annotations

import subprocess
import sys

import pytest

from svdjax.checkpoint import (
    MergedCheckpoint,
    hub,
    input_digest,
    open_checkpoint,
    plan_pair,
    ranges,
    read_stack,
)
from svdjax.checkpoint.hub import Streaming
from tests.checkpoint.hub.streamed import (
    SHARD,
    WEIGHTS,
    assert_same,
    disk,
    read_all,
    refusal,
    stream,
)
from tests.support import adapters, hub_server, tiny
from tests.support.hub_server import TOKEN, Fault

# --- what is read ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["single", "sharded"])
def test_streamed_values_are_those_of_the_files(server, models, tmp_path, name):
    with stream(f"org/{name}") as checkpoint, open_checkpoint(models[name]) as local:
        assert_same(checkpoint, models[name])
        for each in plan_pair(local, checkpoint).projections:
            for wide in (False, True):
                stacks = [read_stack(one, each, 1, 4, wide=wide) for one in (local, checkpoint)]
                assert stacks[0].tobytes() == stacks[1].tobytes()
        tensor = "model.layers.2.mlp.down_proj.weight"
        rows = checkpoint.read(tensor, (5, 90))
        assert rows.tobytes() == local.read(tensor, (5, 90)).tobytes()
        assert checkpoint.read(tensor, (7, 7)).shape == (0, 160)
        assert str(checkpoint.where(tensor)).startswith(f"org/{name}@{checkpoint.path.name}/model")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert server.asked("resolve/main") == []


def test_the_commit_and_the_hubs_hashes_are_recorded(server, models):
    with stream("org/sharded") as checkpoint, open_checkpoint(models["sharded"]) as local:
        digests, expected = input_digest(checkpoint), input_digest(local, full=True)
        assert digests.keys() == expected.keys()
        commit = checkpoint.path.name
        assert hub.commits({"org/sharded": digests, "text.jsonl": {"size": 3}}) == {
            "org/sharded": commit
        }
        for name, digest in digests.items():
            assert digest["sha256"] == expected[name]["sha256"]
        assert digests[SHARD] == {
            "size": expected[SHARD]["size"],
            "header_sha256": expected[SHARD]["header_sha256"],
            "commit": commit,
            "sha256": expected[SHARD]["sha256"],
        }
        assert input_digest(stream("org/sharded", cache_bytes=1 << 30), full=True) == digests
        assert checkpoint.notes == (
            f"org/sharded: read from the hub at commit {commit}, not downloaded",
        )


def test_what_is_small_comes_in_few_requests(server, models, monkeypatch):
    monkeypatch.setattr(ranges, "BLOCK", 1 << 18)
    checkpoint = stream("org/sharded")
    assert_same(checkpoint, models["sharded"])
    assert_same(checkpoint, models["sharded"])
    asked = [one for one in server.asked(".safetensors") if one.range]
    sizes = [path.stat().st_size for path in models["sharded"].glob("*.safetensors")]
    assert len(asked) == sum(-(-size // (1 << 18)) for size in sizes)
    assert sum(one.count for one in asked) == sum(sizes), "every byte once"


def test_what_is_large_comes_in_pieces_without_a_byte_too_many(server, models):
    checkpoint = stream()
    name = "model.layers.1.mlp.up_proj.weight"
    size = checkpoint.spec(name).shape[0] * checkpoint.spec(name).shape[1] * 2
    server.log.clear()
    checkpoint.read(name)
    counts = [one.count for one in server.asked(WEIGHTS)]
    assert sum(counts) == size
    assert max(counts) <= 1 << 13
    assert len(counts) == -(-size // (1 << 13))


def test_headers_of_many_files_are_fetched_together(server, models, monkeypatch):
    server.faults = [Fault("GET .*safetensors", times=4, delay=0.2, piece=1 << 11)]
    checkpoint = stream("org/sharded")
    for file in checkpoint.files:
        checkpoint.header(file)
    asked = [one for one in server.asked(".safetensors") if one.range]
    firsts = {one.path.rpartition("/")[2] for one in asked[:3]}
    assert firsts == set(checkpoint.files)


def test_a_moved_branch_is_read_at_the_commit_that_is_given(server, models, tmp_path):
    first = stream().path.name
    moved = tiny.perturb(models["single"], tmp_path / "moved", seed=5)
    second = server.commit("org/single", moved)
    assert stream().path.name == second != first
    assert_same(stream(), moved)
    pinned = stream(commits={"org/single": first})
    assert pinned.path.name == first
    assert_same(pinned, models["single"])
    assert_same(stream(f"org/single@{first}"), models["single"])


def test_an_open_checkpoint_stays_at_its_commit(server, models, tmp_path):
    checkpoint = stream()
    server.commit("org/single", tiny.perturb(models["single"], tmp_path / "moved", seed=5))
    assert_same(checkpoint, models["single"])
    checkpoint.check_unchanged()


def test_directories_are_read_as_without(server, models):
    checkpoint = stream(models["single"])
    assert not checkpoint.streamed
    assert server.log == []


def test_adapters_are_downloaded_and_merged_into_a_streamed_base(server, models, tmp_path):
    adapter = adapters.make_adapter(tmp_path / "adapter", models["single"])
    server.commit("org/adapter", adapter)
    streaming = Streaming()
    merged = open_checkpoint(
        "org/adapter", lambda: open_checkpoint("org/single", streaming=streaming), streaming
    )
    assert isinstance(merged, MergedCheckpoint)
    assert merged.streamed
    local = open_checkpoint(adapter, lambda: open_checkpoint(models["single"]))
    for name, value in read_all(local).items():
        assert merged.read(name).tobytes() == value.tobytes()
    assert hub.commits({"org/adapter": input_digest(merged)})


# --- whose repository it is ------------------------------------------------------------------


def test_tokens_are_used_where_the_library_finds_one(server, models, monkeypatch):
    server.gated.add("org/single")
    text = refusal(stream)
    assert "accept its terms" in text
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_same(stream(), models["single"])
    asked = server.asked("org/single")
    assert {one.token for one in asked[1:]} == {f"Bearer {TOKEN}"}
    monkeypatch.setenv("HF_TOKEN", TOKEN[::-1])
    assert "accept its terms" in refusal(stream)


def test_tokens_stay_with_the_hub(server, models, monkeypatch):
    server.gated.add("org/single")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server.HubServer() as cdn:
        server.cdn = cdn
        checkpoint = stream()
        assert_same(checkpoint, models["single"])
        assert cdn.log
        assert {one.token for one in cdn.log} == {None}
        cdn.faults = [Fault("safetensors", times=10**6, status=500)]
        assert "500" in refusal(stream)


def test_what_does_not_exist(server):
    assert "repository's full name" in refusal(stream, "org/nothing")
    text = refusal(stream, "org/single@nothing")
    assert "org/single@nothing" in text
    assert "no such directory" in refusal(stream, "a/b/c")


def test_offline_says_so(server, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "ffline" in refusal(stream)


# --- the disk ----------------------------------------------------------------------------------


def test_without_a_cache_nothing_but_what_is_small_is_on_disk(server, models, tmp_path):
    read_all(stream())
    small = (models["single"] / "config.json").stat().st_size
    assert disk(tmp_path / "cache") < small + 2000  # and the library's own records


@pytest.mark.parametrize("most", [1 << 16, 1 << 30])
def test_what_is_kept_is_bounded_and_not_fetched_again(server, models, tmp_path, most):
    sizes = []
    streaming = Streaming(most)
    checkpoint = open_checkpoint("org/single", streaming=streaming)
    for name in checkpoint.names:
        checkpoint.read(name)
        sizes.append(disk(tmp_path / "cache"))
    before = len(server.asked(WEIGHTS))
    assert max(sizes) <= most + 4000
    assert max(sizes) > min(most, 1 << 18) * 0.8
    assert_same(checkpoint, models["single"])
    again = len(server.asked(WEIGHTS)) - before
    assert again == 0 if most > 1 << 20 else 0 < again < before
    (folder,) = (tmp_path / "cache").glob("svdjax-stream-*")
    del checkpoint, streaming
    assert not folder.exists()


def test_folders_of_killed_commands_are_removed(server, tmp_path):
    left = tmp_path / "cache" / "svdjax-stream-killed"
    left.mkdir(parents=True)
    (left / "range").write_bytes(bytes(1 << 20))
    checkpoint = stream(cache_bytes=1 << 20)
    checkpoint.read("model.norm.weight")
    assert not left.exists()


def test_a_disk_that_fails_is_no_fault(server, models, tmp_path):
    checkpoint = stream(cache_bytes=1 << 30)
    checkpoint.read("model.norm.weight")
    (folder,) = (tmp_path / "cache").glob("svdjax-stream-*")
    for file in folder.iterdir():
        if file.name != ".lock":
            file.unlink()
            file.mkdir()  # cannot be opened
    assert_same(checkpoint, models["single"])


def test_a_cache_that_cannot_be_made_is_none(server, models, tmp_path, monkeypatch):
    from huggingface_hub import constants

    checkpoint = stream(cache_bytes=1 << 30)
    file = tmp_path / "file"
    file.write_bytes(b"")
    monkeypatch.setattr(constants, "HF_HOME", str(file))
    assert_same(checkpoint, models["single"])


CASES = ("03_index_stale", "04_stray_files", "06_prefixes", "09_moe", "13_granite")


@pytest.mark.parametrize("case", CASES)
def test_what_people_meet_is_read_as_from_the_disk(server, shared, tmp_path, case):
    script = shared / "cases" / f"case_{case}.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "case")], check=True)
    folders = sorted(path.parent for path in (tmp_path / "case").rglob("config.json"))
    assert folders
    for number, folder in enumerate(folders):
        commit = server.commit(f"org/model-{number}", folder)
        remote, local = stream(f"org/model-{number}"), open_checkpoint(folder)
        assert remote.names == local.names
        for name in local.names:
            assert remote.read(name).tobytes() == local.read(name).tobytes(), (folder, name)
        snapshot = str(remote.path)
        assert snapshot.endswith(commit)
        first, *notes = (note.replace(snapshot, str(folder)) for note in remote.notes)
        assert "read from the hub" in first
        assert notes == list(local.notes)
