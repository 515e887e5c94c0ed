"""Nothing outside a given folder is opened, whatever its links and settings say."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator

import pytest

from svdjax.checkpoint import open_checkpoint, plan_pair
from svdjax.checkpoint.contents import check_tokenizer, check_tree
from svdjax.checkpoint.replace import copy_companions
from svdjax.errors import InputError
from svdjax.fingerprint.embeddings import _vocabulary
from svdjax.text.tokenizers import load_tokenizer
from tests.checkpoint.test_reader import message
from tests.support import tiny
from tests.support.commands import call

SHIPPED = pathlib.Path(__file__).resolve().parents[2] / "svdjax" / "reference" / "instruct"
READ = (
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "vocab.txt", "dict.txt", "tokenizer.model", "spiece.model", "source.spm"),
    *("chat_template.jinja", "chat_template.json", "processor_config.json", "tekken.json"),
    "additional_chat_templates/tool.jinja",
)
_opened: list[str] | None = None


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _opened is not None and event == "open":
        path = arguments[0]
        if isinstance(path, str | bytes | os.PathLike):
            _opened.append(os.path.realpath(os.fsdecode(path)))


@pytest.fixture(scope="module")
def _audited() -> None:
    sys.addaudithook(_hook)  # there is no taking it away


@pytest.fixture
def opened(_audited: None) -> Iterator[list[str]]:
    """The real path of whatever Python opens."""
    global _opened
    _opened = []
    yield _opened
    _opened = None


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A checkpoint with a tokenizer."""
    return shutil.copytree(SHIPPED, tmp_path / "model")


def use(folder: pathlib.Path, scratch: pathlib.Path) -> list[str]:
    """Everything that reads more than weights; the refusals."""
    refusals = []
    for reading in (
        lambda: plan_pair(open_checkpoint(folder), open_checkpoint(folder)),
        lambda: load_tokenizer(folder, "a prompt"),
        lambda: _vocabulary(folder),
        lambda: copy_companions(folder, scratch),
    ):
        try:
            reading()
        except InputError as error:
            refusals.append(str(error))
    return refusals


def test_a_whole_folder_is_fine(folder, tmp_path, opened):
    (tmp_path / "scratch").mkdir()
    assert use(folder, tmp_path / "scratch") == []
    assert str(folder / "config.json") in opened


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_leads_out_is_not_opened(folder, tmp_path, opened, name, kind):
    outside = tmp_path / "outside"
    outside.mkdir()
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    content = file.read_bytes() if file.exists() else b"{}"
    file.unlink(missing_ok=True)
    if kind == "link":
        (outside / "secret").write_bytes(content)
        file.symlink_to(outside / "secret")
    else:
        os.mkfifo(file)
    (tmp_path / "scratch").mkdir()
    opened.clear()
    refusals = use(folder, tmp_path / "scratch")
    assert [path for path in opened if path.startswith(str(outside))] == []
    expected = "outside its directory" if kind == "link" else "is not a regular file"
    assert any(str(file) in text and expected in text for text in refusals), refusals


def test_links_inside_a_hub_snapshot_are_followed(folder, tmp_path):
    repo = tmp_path / "models--org--name"
    snapshot = repo / "snapshots" / "abc"
    (snapshot / "additional_chat_templates").mkdir(parents=True)
    (repo / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, repo / "blobs" / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    (repo / "blobs" / "template").write_text("{{ messages }}")
    inside = snapshot / "additional_chat_templates" / "tool.jinja"
    inside.symlink_to("../../../blobs/template")
    (tmp_path / "scratch").mkdir()
    assert use(snapshot, tmp_path / "scratch") == []
    inside.unlink()
    inside.symlink_to(SHIPPED / "config.json")
    assert "outside its directory" in message(check_tokenizer, snapshot)


@pytest.mark.parametrize(
    ("file", "settings"),
    [
        ("tokenizer_config.json", {"fast_tokenizer_files": ["../outside/tokenizer.1.json"]}),
        ("tokenizer_config.json", {"vocab_file": "OUTSIDE/tokenizer.1.json"}),
        ("tokenizer_config.json", {"tokenizer_file": "OUTSIDE/tokenizer.1.json"}),
        ("config.json", {"configuration_files": ["../outside/config.1.json"]}),
    ],
)
def test_names_in_settings_stay_inside(folder, tmp_path, opened, file, settings):
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("tokenizer.1.json", "config.1.json"):
        shutil.copy(folder / "tokenizer.json", outside / name)
    text = json.dumps(json.loads((folder / file).read_text()) | settings)
    (folder / file).write_text(text.replace("OUTSIDE", str(outside)))
    opened.clear()
    assert str(folder / file) in message(load_tokenizer, folder, "a prompt")
    assert [path for path in opened if path.startswith(str(outside))] == []


def test_paths_of_where_it_was_made_are_no_fault(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["special_tokens_map_file"] = "/nowhere/at/all/special_tokens_map.json"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_tokenizer(folder, "a prompt")


def test_trees(tmp_path):
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "file").write_text("")
    (tmp_path / "tree" / "b").symlink_to("a/file")
    names = [str(path.relative_to(tmp_path)) for path in check_tree(tmp_path / "tree")]
    assert names == ["tree/a/file", "tree/b"]
    (tmp_path / "away").mkdir()
    (tmp_path / "tree" / "c").symlink_to(tmp_path / "away")
    assert "is a link to a directory" in message(check_tree, tmp_path / "tree")
    (tmp_path / "tree" / "c").unlink()
    os.mkfifo(tmp_path / "tree" / "a" / "pipe")
    assert "is not a regular file" in message(check_tree, tmp_path / "tree")


def test_a_dry_run_opens_nothing_outside_the_given_folders(tmp_path, opened):
    base = tiny.make_checkpoint(tmp_path / "given" / "base", "llama", seed=1)
    post = tiny.perturb(base, tmp_path / "given" / "post")
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in READ:
        if not (post / name).exists():
            (outside / name).parent.mkdir(exist_ok=True)
            (outside / name).write_text("{}")
            (post / name).parent.mkdir(exist_ok=True)
            (post / name).symlink_to(outside / name)
    opened.clear()
    config = f"--config=configs/pair.py:base={base},post={post}"
    done = call("sweep", config, "--dry_run", f"--workdir={tmp_path / 'W'}")
    assert "Traceback" not in done.err
    mine = [path for path in opened if path.startswith(str(tmp_path))]
    assert any(path.startswith(str(post)) for path in mine)
    assert [path for path in mine if not path.startswith(str(tmp_path / "given"))] == []
