"""The lazy reader: what it gives, what it leaves unopened, and what it refuses, in one line."""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import struct
import threading
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from svdjax.checkpoint import model_config, open_checkpoint, plan_pair, resolve
from svdjax.errors import InputError
from tests.support import tiny

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


def message(call, *args, **kwargs) -> str:
    """The one line that a call is refused with."""
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


def raw_file(path: pathlib.Path, header: object, data: bytes = b"") -> None:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def edit_index(directory: pathlib.Path, change) -> None:
    path = directory / INDEX
    content = json.loads(path.read_text())
    change(content["weight_map"])
    path.write_text(json.dumps(content))


@pytest.fixture
def single(tmp_path):
    return tiny.make_checkpoint(tmp_path / "single", "qwen2")


@pytest.fixture
def sharded(tmp_path):
    return tiny.make_checkpoint(tmp_path / "sharded", "llama", shards=3)


@pytest.mark.parametrize("dtype", tiny.DTYPES)
@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_as_stored(tmp_path, dtype, shards):
    path = tiny.make_checkpoint(tmp_path / "c", "mistral", dtype=dtype, shards=shards)
    expected = tiny.random_tensors(tiny.tiny_config("mistral"), dtype=dtype)
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.names == tuple(sorted(expected))
        assert checkpoint.config["model_type"] == "mistral"
        for name, tensor in expected.items():
            spec, found = checkpoint.spec(name), checkpoint.read(name)
            assert (spec.shape, spec.dtype) == (tensor.shape, tensor.dtype)
            assert (path / spec.file).is_file()
            assert found.dtype == tensor.dtype
            assert found.tobytes() == tensor.tobytes()
        matrix = expected["model.norm.weight"]
        assert checkpoint.read("model.norm.weight", (3, 7)).tobytes() == matrix[3:7].tobytes()


def test_usable_after_close_and_from_threads(sharded):
    checkpoint = open_checkpoint(str(sharded))
    expected = tiny.read_tensors(sharded)
    wrong: list[str] = []

    def read_all() -> None:
        for name in checkpoint.names:
            if checkpoint.read(name).tobytes() != expected[name].tobytes():
                wrong.append(name)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    checkpoint.close()
    read_all()
    assert not wrong


def test_broken_shard_is_noticed_when_the_checkpoint_is_opened(sharded):
    last = sharded / "model-00003-of-00003.safetensors"
    last.write_bytes(last.read_bytes()[:-10])
    text = message(open_checkpoint, sharded)
    assert str(last) in text
    assert "truncated or corrupt" in text


def test_single_file_goes_before_an_index(sharded):
    save_file(tiny.read_tensors(sharded), sharded / SINGLE)
    with open_checkpoint(sharded) as checkpoint:
        assert checkpoint.files == (SINGLE,)
        assert INDEX in checkpoint.notes[0]
        assert INDEX in plan_pair(checkpoint, checkpoint).notes[0]


def test_unknown_tensor(single):
    text = message(open_checkpoint(single).read, "model.nonsense")
    assert "model.nonsense" in text
    assert str(single / SINGLE) in text


# --- config.json -------------------------------------------------------------------------------


def test_missing_config(single):
    (single / "config.json").unlink()
    assert str(single / "config.json") in message(open_checkpoint, single)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b"[" * 20_000, "not valid JSON"),
        (b"[" * 200_000, "more than 100000 lists and objects"),
        (b"[" + b"1," * 2_000_000, "more than 1000000 values"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "nests deeper than 64"),
        (b'{"a": 1' + b"0" * 400 + b"}", "a number of more than 300 digits"),
        (b'{"a": 1' + b"0" * 9000 + b"}", "not valid JSON"),
        (b'{"model_type": "qwen2", "model_type": "llama"}', "'model_type' occurs twice"),
    ],
)
def test_invalid_config(single, content, says):
    (single / "config.json").write_bytes(content)
    text = message(open_checkpoint, single)
    assert str(single / "config.json") in text
    assert says in text


@pytest.mark.parametrize("value", [0, -4, 10**18, 2.5, "four", True, [4]])
def test_senseless_sizes_are_refused_before_anything_is_allocated(single, value):
    config = json.loads((single / "config.json").read_text())
    (single / "config.json").write_text(json.dumps(config | {"num_hidden_layers": value}))
    checkpoint = open_checkpoint(single)
    text = message(plan_pair, checkpoint, checkpoint)
    assert str(single / "config.json") in text
    assert "num_hidden_layers" in text


# --- broken files ------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 5, 8, 200, -1])
def test_truncated_file(single, keep):
    file = single / SINGLE
    file.write_bytes(file.read_bytes()[:keep])
    text = message(open_checkpoint, single)
    assert str(file) in text
    assert "truncated or corrupt" in text


def test_header_longer_than_the_file_allocates_nothing(single):
    file = single / SINGLE
    for length in (1 << 40, (1 << 64) - 1, file.stat().st_size):
        file.write_bytes(struct.pack("<Q", length) + file.read_bytes()[8:])
        text = message(open_checkpoint, single)
        assert f"a header of {length} bytes" in text
        assert text.count("model.safetensors") == 1


def test_shape_that_does_not_fit_the_data(single):
    huge = {"dtype": "F32", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 16]}
    raw_file(single / SINGLE, {"model.norm.weight": huge}, b"\0" * 16)
    text = message(open_checkpoint, single)
    assert str(single / SINGLE) in text
    assert "truncated or corrupt" in text


def test_tensor_twice_in_one_header(single):
    entry = b'{"dtype":"F32","shape":[4],"data_offsets":[0,16]}'
    raw_file(single / SINGLE, b'{"a":' + entry + b',"a":' + entry + b"}", b"\0" * 16)
    text = message(open_checkpoint, single)
    assert "'a' occurs twice" in text
    assert str(single / SINGLE) in text


def test_file_without_tensors(single):
    raw_file(single / SINGLE, {"__metadata__": {"format": "pt"}})
    assert "holds no tensor" in message(open_checkpoint, single)


# --- the index ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target",
    ["/etc/passwd", "../x.safetensors", "sub/x.safetensors", "..", ".", "", "a\\b.safetensors"],
)
def test_index_may_not_lead_outside(sharded, target):
    if target == "../x.safetensors":
        save_file({"a": np.zeros(3, np.float32)}, sharded.parent / "x.safetensors")
    edit_index(sharded, lambda entries: entries.update({"model.norm.weight": target}))
    text = message(open_checkpoint, sharded)
    assert str(sharded / INDEX) in text
    assert repr(target) in text


def test_index_names_a_missing_shard(sharded):
    (sharded / "model-00002-of-00003.safetensors").unlink()
    text = message(open_checkpoint, sharded)
    assert "model-00002-of-00003.safetensors: no such file" in text
    assert "tensor model.layers." in text


def test_index_names_a_tensor_that_its_shard_lacks(sharded):
    file = "model-00001-of-00003.safetensors"
    edit_index(sharded, lambda entries: entries.update({"model.ghost": file}))
    checkpoint = open_checkpoint(sharded)
    assert "model.ghost" not in checkpoint
    assert checkpoint.notes == (
        f"{sharded / INDEX}: names tensor model.ghost in {file}, which is not there",
    )
    assert (
        message(checkpoint.spec, "model.ghost") == f"{sharded / INDEX}: has no tensor model.ghost"
    )


@pytest.mark.parametrize("same", [True, False])
def test_tensor_in_two_shards(sharded, same):
    first, last = (sharded / f"model-0000{n}-of-00003.safetensors" for n in (1, 3))
    tensors = tiny.read_tensors(sharded)
    inside = json.loads((sharded / INDEX).read_text())["weight_map"]
    here = {name: tensors[name] for name, file in inside.items() if file == first.name}
    other = next(n for n, file in inside.items() if file == last.name and "proj" in n)
    value = tensors[other] if same else tensors[other] * tensors[other].dtype.type(2)
    save_file(here | {other: value}, first)
    checkpoint = open_checkpoint(sharded)
    (note,) = checkpoint.notes
    assert f"tensor {other} is in {first.name} and {last.name}" in note
    if same:
        assert checkpoint.read(other).tobytes() == tensors[other].tobytes()
        assert note in plan_pair(checkpoint, checkpoint).notes
    else:
        assert message(checkpoint.read, other) == note
        assert note in message(plan_pair, checkpoint, checkpoint)


def test_tensor_that_the_index_does_not_name(sharded):
    edit_index(sharded, lambda entries: entries.pop("model.norm.weight"))
    checkpoint = open_checkpoint(sharded)
    assert "model.norm.weight" in checkpoint
    assert "does not name tensor model.norm.weight" in plan_pair(checkpoint, checkpoint).notes[0]


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}', '{"weight_map": []}', "null"])
def test_malformed_index(sharded, content):
    (sharded / INDEX).write_text(content)
    assert str(sharded / INDEX) in message(open_checkpoint, sharded)


def test_index_entry_that_is_no_text(sharded):
    edit_index(sharded, lambda entries: entries.update({"model.norm.weight": 7}))
    assert "model.norm.weight is in 7" in message(open_checkpoint, sharded)


def shards_of(path: pathlib.Path, count: int) -> None:
    """A checkpoint of many files with three tensors each."""
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "odd"}')
    weight_map = {}
    for number in range(count):
        file = f"model-{number:05d}-of-{count:05d}.safetensors"
        names = [f"layers.{number}.{part}.weight" for part in "abc"]
        entry = {"dtype": "F32", "shape": [2, 2]}
        header = {n: entry | {"data_offsets": [16 * i, 16 * i + 16]} for i, n in enumerate(names)}
        raw_file(path / file, header, bytes(48))
        weight_map |= dict.fromkeys(names, file)
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("count", [2_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_many_shards_take_time_in_proportion(tmp_path, count):
    shards_of(tmp_path / "c", count)
    begin = time.process_time()
    with open_checkpoint(tmp_path / "c") as checkpoint:
        assert {checkpoint.spec(name).shape for name in checkpoint.names} == {(2, 2)}
        assert len(checkpoint.names) == 3 * count
    assert time.process_time() - begin < 2e-3 * count


def test_an_index_of_many_missing_files(tmp_path, single):
    (single / SINGLE).unlink()
    weight_map = {f"tensor{number}": f"{number}.safetensors" for number in range(100_000)}
    (single / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    text = message(open_checkpoint, single)
    assert "0.safetensors: no such file" in text
    assert "and 99992 more" in text
    assert len(text) < 2000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": "' + b"x" * (17 << 20) + b'"}', "expected at most"),
        (b'{"a": [' + b"{}," * 1_000_000 + b"0]}", "lists and objects"),
        (b'{"a": [' + b"0," * 1_000_000 + b"0]}", "more than"),
    ],
    ids=["bytes", "objects", "numbers"],
)
def test_a_config_that_is_too_large_is_not_parsed(single, content, says):
    (single / "config.json").write_bytes(content)
    assert says in message(open_checkpoint, single)


# --- links -------------------------------------------------------------------------------------


def test_links_that_lead_outside_are_refused(single, tmp_path):
    away = tmp_path / "away.safetensors"
    (single / SINGLE).rename(away)
    (single / SINGLE).symlink_to(away)
    text = message(open_checkpoint, single)
    assert str(single / SINGLE) in text
    assert str(away) in text
    (single / SINGLE).unlink()
    (single / SINGLE).symlink_to(tmp_path / "nowhere")
    assert "no such file" in message(open_checkpoint, single)
    (single / SINGLE).unlink()
    (single / SINGLE).symlink_to(single / SINGLE)
    assert str(single / SINGLE) in message(open_checkpoint, single)


def test_links_inside_and_to_the_hub_cache_are_followed(single, tmp_path):
    (single / SINGLE).rename(single / "data")
    (single / SINGLE).symlink_to("data")
    assert open_checkpoint(single).names
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, name in enumerate((SINGLE, "config.json")):
        (repo / "blobs" / str(number)).write_bytes((single / name).read_bytes())
        (snapshot / name).symlink_to(f"../../blobs/{number}")
    assert open_checkpoint(snapshot).names
    link = tmp_path / "link"
    link.symlink_to(snapshot)
    assert open_checkpoint(link).names


def test_pipes_and_folders_are_not_opened(single):
    (single / SINGLE).unlink()
    os.mkfifo(single / SINGLE)
    assert "is not a regular file" in message(open_checkpoint, single)
    (single / SINGLE).unlink()
    (single / SINGLE).mkdir()
    assert "is not a regular file" in message(open_checkpoint, single)


# --- formats that are refused ------------------------------------------------------------------


class Bomb:
    def __reduce__(self):
        return pytest.exit, ("a pickle was executed",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_unopened(single, name):
    (single / SINGLE).unlink()
    (single / name).write_bytes(pickle.dumps(Bomb()))
    for _ in range(2):
        text = message(open_checkpoint, single)
        assert str(single / name) in text
        assert "pickle" in text
        assert "save_pretrained" in text
        (single / "config.json").unlink(missing_ok=True)  # the same without one


def test_pickle_named_by_an_index(sharded):
    edit_index(sharded, lambda entries: entries.update({"model.norm.weight": "p.bin"}))
    assert "p.bin is a pickle" in message(open_checkpoint, sharded)


def test_adapters_and_empty_directories(tmp_path):
    assert "found nothing" in message(open_checkpoint, tmp_path)
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "adapter_model.safetensors")
    assert "PEFT adapter" in message(open_checkpoint, tmp_path)


def test_weights_that_are_floats_though_the_config_calls_them_quantised(single):
    config = json.loads((single / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq"}
    (single / "config.json").write_text(json.dumps(config))
    (note,) = open_checkpoint(single).notes
    assert "quantization_config says" in note
    tensors = tiny.read_tensors(single)
    tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((64, 96), np.int8)
    save_file(tensors, single / SINGLE)
    text = message(open_checkpoint, single)
    assert str(single / "config.json") in text
    assert "gptq" in text


@pytest.mark.parametrize(
    "ending", ["qweight", "qzeros", "weight.absmax", "SCB", "weight_scale_inv"]
)
def test_quantised_by_tensor_names(single, ending):
    name = f"model.layers.0.mlp.up_proj.{ending}"
    tensors = tiny.read_tensors(single) | {name: np.zeros(4, np.int32)}
    save_file(tensors, single / SINGLE)
    text = message(open_checkpoint, single)
    assert name in text
    assert "quantised" in text


@pytest.mark.parametrize("code", ["F8_E4M3", "F8_E5M2"])
def test_quantised_by_dtype(single, code):
    entry = {"dtype": code, "shape": [4, 4], "data_offsets": [0, 16]}
    raw_file(single / SINGLE, {"model.norm.weight": entry}, b"\0" * 16)
    text = message(open_checkpoint, single)
    assert f"{single / SINGLE}: tensor model.norm.weight is {code}" in text
    assert "fp8" in text


# --- where checkpoints come from ---------------------------------------------------------------


def test_resolve(single, monkeypatch):
    assert resolve(str(single)) == single
    monkeypatch.setenv("HOME", str(single.parent))
    assert resolve("~/single") == single
    assert str(single / SINGLE) in message(resolve, str(single / SINGLE))
    assert "expected a directory or a hub id" in message(resolve, "")


def test_misspelled_directories_get_candidates(single):
    text = message(resolve, str(single.parent / "singel"))
    assert f"did you mean {single}?" in text


def test_hub_ids_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "base_model").mkdir(parents=True)
    text = message(resolve, "runs/base_modle")
    assert "did you mean runs/base_model?" in text
    assert "hub" in text
    for source in ("no-such-org/no-such-model", "no-such-org/no-such-model@main", "a/--b..c"):
        assert source in message(resolve, source)
    assert "hub" not in message(resolve, "./a/b")
    assert "hub" not in message(resolve, "a/b/c")


def test_hub_ids_and_revisions_are_passed_on(single, monkeypatch):
    asked = []

    def download(repo, revision=None, **patterns):
        asked.append((repo, revision, patterns))
        return str(single)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert open_checkpoint("org/name").names
    assert open_checkpoint("org/name@v1.0").source == "org/name@v1.0"
    assert [each[:2] for each in asked] == [("org/name", None), ("org/name", "v1.0")]
    assert not any("bin" in pattern for pattern in asked[0][2]["allow_patterns"])


def test_real_checkpoint(shared):
    with open_checkpoint(shared / "checkpoints" / "stories260k") as checkpoint:
        config = model_config(checkpoint.config)
        assert (config.num_layers, config.hidden_size) == (5, 64)
        plan = plan_pair(checkpoint, checkpoint)
        assert [len(projection.tensors) for projection in plan.projections] == [5] * 7
