"""Weights read straight from a hub on loopback: equal values, faults, hostile answers, the disk."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

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
from svdjax.errors import InputError, Interrupted
from tests.support import adapters, hub_server, tiny
from tests.support.hub_server import TOKEN, Fault

WEIGHTS = "model.safetensors"
SHARD = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A checkpoint in one file, and the same in three."""
    root = tmp_path_factory.mktemp("models")
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 160}
    return {
        "single": tiny.make_checkpoint(root / "single", "qwen2", seed=1, **sizes),
        "sharded": tiny.make_checkpoint(root / "sharded", "qwen2", seed=1, shards=3, **sizes),
    }


@pytest.fixture
def server(models, tmp_path, monkeypatch):
    """A hub with both, that is asked again at once, for blocks smaller than the matrices."""
    monkeypatch.setattr(ranges, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(ranges, "_OPENING_PATIENCE", 0.2)
    monkeypatch.setattr(ranges, "_READING_PATIENCE", 0.2)
    monkeypatch.setattr(ranges, "BLOCK", 1 << 12)
    monkeypatch.setattr(ranges, "PIECE", 1 << 13)
    with hub_server.serving(tmp_path / "cache", monkeypatch) as server:
        for name, path in models.items():
            server.commit(f"org/{name}", path)
        yield server


def read_all(checkpoint):
    return {name: checkpoint.read(name) for name in checkpoint.names}


def assert_same(checkpoint, directory):
    expected = tiny.read_tensors(directory)
    assert set(checkpoint.names) == set(expected)
    for name, value in read_all(checkpoint).items():
        assert value.dtype == expected[name].dtype
        assert value.tobytes() == expected[name].tobytes(), name


def refusal(call, *arguments):
    with pytest.raises(InputError) as caught:
        call(*arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert TOKEN not in text
    assert "SIGNED" not in text
    return text


def stream(source="org/single", **options):
    return open_checkpoint(source, streaming=Streaming(**options))


def disk(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


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


# --- a hub that is slow, or fails now and then ---------------------------------------------------

PASSING = {
    "500": Fault("safetensors", times=2, status=500),
    "503 that says when": Fault("safetensors", status=503, headers={"Retry-After": "0"}),
    "429": Fault("safetensors", times=2, status=429, after=3),
    "cut in the middle": Fault("safetensors", times=3, after=2, cut=1000),
    "cut at the start": Fault("safetensors", times=2, after=1, cut=0),
    "slow": Fault("safetensors", times=5, delay=0.01, piece=512),
    "lookup": Fault("GET /api/models/org/single$", times=2, status=502),
    "small files": Fault("config.json", times=2, status=500),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_passing_failures_change_no_value(server, models, monkeypatch, fault):
    monkeypatch.setattr(ranges, "_OPENING_PATIENCE", 10.0)
    monkeypatch.setattr(ranges, "_READING_PATIENCE", 10.0)
    server.faults = [fault.__class__(**vars(fault))]
    assert_same(stream(), models["single"])
    assert server.faults[0].times == 0


def test_what_was_received_is_not_asked_again(server, models, monkeypatch):
    monkeypatch.setattr(ranges, "_READING_PATIENCE", 10.0)
    checkpoint = stream()
    name = "model.layers.1.mlp.up_proj.weight"
    server.log.clear()
    server.faults = [Fault("safetensors", cut=5000)]
    checkpoint.read(name)
    first, *_, last = sorted(server.asked(WEIGHTS), key=lambda one: one.range or (0, 0))
    assert any(
        one.range[0] - other.range[0] == 5000 and one.range[1] == other.range[1]
        for one in server.asked(WEIGHTS)
        for other in server.asked(WEIGHTS)
    ), (first, last)


def test_progress_renews_patience(server, models, monkeypatch):
    # Every answer breaks off after half a block: no failure is the last one.
    server.faults = [Fault("safetensors", times=1000, cut=1 << 11)]
    assert_same(stream(), models["single"])


@pytest.mark.parametrize("status", [500, 429])
def test_failures_that_stay_end_in_one_line(server, status):
    checkpoint = stream()
    server.faults = [Fault("safetensors", times=10**6, status=status)]
    text = refusal(checkpoint.read, "model.norm.weight")
    assert f"org/single@{checkpoint.path.name}/{WEIGHTS}: cannot be read" in text
    assert str(status) in text
    assert "the same command goes on" in text


def test_a_long_wait_that_is_asked_for_is_not_begun(server):
    checkpoint = stream()
    server.faults = [
        Fault("safetensors", times=10**6, status=429, headers={"Retry-After": "999999999"})
    ]
    assert "429" in refusal(checkpoint.read, "model.norm.weight")


def test_waiting_ends_when_it_is_stopped(server, monkeypatch):
    monkeypatch.setattr(ranges, "_READING_PATIENCE", 600.0)
    monkeypatch.setattr(ranges, "_FIRST_WAIT", 100.0)
    stopped = threading.Event()

    def check():
        if stopped.is_set():
            raise Interrupted("stopped")

    checkpoint = stream(check=check)
    server.faults = [Fault("safetensors", times=10**6, status=500)]
    threading.Timer(0.2, stopped.set).start()
    with pytest.raises(Interrupted):
        checkpoint.read("model.norm.weight")


def test_a_server_that_is_gone(server, models):
    checkpoint = stream()
    server._server.shutdown()
    server._server.server_close()
    assert "cannot be read" in refusal(checkpoint.read, "model.norm.weight")
    assert "not to be had from the Hugging Face hub" in refusal(stream)


# --- answers that are wrong ----------------------------------------------------------------------

WRONG = {
    "gone": (Fault("safetensors", status=404, headers={"X-Error-Code": "EntryNotFound"}), "404"),
    "not satisfiable": (Fault("safetensors", status=416), "416"),
    "gated now": (Fault("safetensors", status=403, headers={"X-Error-Code": "GatedRepo"}), "terms"),
    "unauthorised": (Fault("safetensors", status=401), "401"),
    "the whole file": (Fault("safetensors", whole=True), "status 200 and no such range"),
    "another size": (Fault("safetensors", size=12345), "has 12345 bytes where the commit says"),
    "another range": (Fault("safetensors", shift=512), "asked for bytes"),
    "compressed": (Fault("safetensors", headers={"Content-Encoding": "gzip"}), "gzip"),
    "no range told": (Fault("safetensors", headers={"Content-Range": "all"}), "no such range"),
    "a page": (Fault("safetensors", status=200, body=b"<html>Log in</html>"), "no such range"),
    "another place": (
        Fault("safetensors", status=302, headers={"Location": "file:///etc/passwd"}),
        "UnsupportedProtocol",
    ),
    "a circle": (Fault("safetensors", status=302, headers={"Location": "?"}), "TooManyRedirects"),
    "an echo of the token": (
        Fault("safetensors", status=400, body=f"no such token: {TOKEN}".encode()),
        "<token>",
    ),
}


@pytest.mark.parametrize(("fault", "expected"), WRONG.values(), ids=WRONG)
def test_wrong_answers_are_refused(server, monkeypatch, fault, expected):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    checkpoint = stream()
    server.faults = [fault.__class__(**vars(fault) | {"times": 10**6})]
    text = refusal(checkpoint.read, "model.norm.weight")
    assert f"org/single@{checkpoint.path.name}/{WEIGHTS}: " in text
    assert expected in text


def test_a_longer_answer_is_cut(server, models):
    checkpoint = stream()
    expected = tiny.read_tensors(models["single"])["model.norm.weight"]
    data = (models["single"] / WEIGHTS).read_bytes()
    spec = checkpoint.spec("model.norm.weight")
    start = 8 + int.from_bytes(data[:8], "little") + spec.offsets[0]
    block = start - start % ranges.BLOCK
    server.faults = [Fault("safetensors", body=data[block:] + b"more")]
    assert checkpoint.read("model.norm.weight").tobytes() == expected.tobytes()


def sibling(answer, **changes):
    for entry in answer["siblings"]:
        if entry["rfilename"] == WEIGHTS:
            entry.update(changes)
            entry.pop("lfs")
    return answer


TOLD = {
    "no commit": (lambda a: a | {"sha": None}, "names the commit None"),
    "a path as commit": (lambda a: a | {"sha": "../../../tmp"}, "'../../../tmp'"),
    "another commit": (lambda a: a | {"sha": "0" * 40}, ""),
    "no list": (lambda a: a | {"siblings": 3}, "TypeError"),
    "no files": (lambda a: a | {"siblings": None}, "expected model.safetensors"),
    "a negative size": (lambda a: sibling(a, size=-1), "-1 bytes"),
    "a size in words": (lambda a: sibling(a, size="large"), "'large' bytes"),
    "a huge size": (lambda a: sibling(a, size=1 << 60), "bytes"),
    "no hash": (lambda a: sibling(a, blobId="../x"), "no hash of model.safetensors"),
    "another thing": (lambda a: [1, 2], "TypeError"),
}


@pytest.mark.parametrize(("edit", "expected"), TOLD.values(), ids=TOLD)
def test_what_the_hub_tells_is_checked(server, edit, expected):
    server.edits["revision"] = edit
    assert expected in refusal(stream)


def test_files_outside_are_not_looked_at(server, models, tmp_path):
    def edit(answer):
        names = ["../evil.json", "/etc/evil.json", "a/b.safetensors", ".."]
        answer["siblings"] += [{"rfilename": n, "size": 5, "blobId": "1" * 40} for n in names]
        return answer

    server.edits["revision"] = edit
    server.edits["tree"] = lambda answer: [
        *answer,
        {"type": "file", "path": "../../evil.json", "size": 5, "oid": "1" * 40},
    ]
    assert_same(stream(), models["single"])
    assert not list(tmp_path.rglob("evil*"))
    assert server.asked("evil") == server.asked("evil", "HEAD") == []


def test_small_files_that_are_not_small_are_not_fetched(server):
    def edit(answer):
        answer["siblings"].append(
            {"rfilename": "tokenizer.json", "size": 2 << 30, "blobId": "1" * 40}
        )
        return answer

    server.edits["revision"] = edit
    assert "expected at most" in refusal(stream)
    assert server.asked("resolve") == []


def test_an_index_cannot_lead_elsewhere(server, models, tmp_path):
    path = tmp_path / "evil"
    path.mkdir()
    for file in models["sharded"].iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    index = path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(SHARD, f"../{SHARD}"))
    server.commit("org/evil", path)
    assert "bare file name" in refusal(stream, "org/evil")
    index.write_text(index.read_text().replace(f"../{SHARD}", "model-9.safetensors"))
    server.commit("org/evil", path, "main")
    # An index that is stale, beside a whole set of shards, is a note as in a directory.
    assert_same(stream("org/evil"), models["sharded"])


def test_broken_files_are_refused_as_local_ones(server, models, tmp_path):
    path = tmp_path / "broken"
    path.mkdir()
    (path / "config.json").write_bytes((models["single"] / "config.json").read_bytes())
    data = (models["single"] / WEIGHTS).read_bytes()
    for content in (b"", data[:5], data[:-1], (1 << 62).to_bytes(8, "little") + data[8:]):
        (path / WEIGHTS).write_bytes(content)
        commit = server.commit("org/broken", path)
        text = refusal(stream, "org/broken")
        assert f"org/broken@{commit}/{WEIGHTS}: truncated or corrupt" in text


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


def test_once_the_hub_is_lost_nothing_more_is_asked_for(server):
    checkpoint = stream()
    checkpoint.header(WEIGHTS)
    server.faults = [Fault("safetensors", times=10**6, status=500)]
    refusal(checkpoint.read, "model.layers.1.mlp.up_proj.weight")
    asked = len(server.asked("safetensors"))
    assert "500" in refusal(checkpoint.read, "model.layers.2.mlp.up_proj.weight")
    assert len(server.asked("safetensors")) == asked


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
