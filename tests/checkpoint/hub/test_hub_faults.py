"""Weights read straight from a hub on loopback: faults and hostile answers."""

from __future__ import annotations

import threading

import pytest

from svdjax.checkpoint import (
    ranges,
)
from svdjax.errors import Interrupted
from tests.checkpoint.hub.streamed import (
    SHARD,
    WEIGHTS,
    assert_same,
    refusal,
    stream,
)
from tests.support import tiny
from tests.support.hub_server import TOKEN, Fault

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


def test_once_the_hub_is_lost_nothing_more_is_asked_for(server):
    checkpoint = stream()
    checkpoint.header(WEIGHTS)
    server.faults = [Fault("safetensors", times=10**6, status=500)]
    refusal(checkpoint.read, "model.layers.1.mlp.up_proj.weight")
    asked = len(server.asked("safetensors"))
    assert "500" in refusal(checkpoint.read, "model.layers.2.mlp.up_proj.weight")
    assert len(server.asked("safetensors")) == asked
