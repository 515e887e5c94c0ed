"""Config arguments, config files and their leaves."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest
from ml_collections import ConfigDict

from svdjax.errors import InputError
from svdjax.options import OPTIONS, default_config, parse_argument

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
KNOWN = ("base", "post")


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        (None, {}),
        ("", {}),
        ("base=a,post=b", {"base": "a", "post": "b"}),
        ("base=a,b,post=c=d", {"base": "a,b", "post": "c=d"}),
        ("base=org/m@v1,post=org/m-it", {"base": "org/m@v1", "post": "org/m-it"}),
        ("base=/x:y,post=b,", {"base": "/x:y", "post": "b,"}),
        ("base=has,other=inside,post=b", {"base": "has,other=inside", "post": "b"}),
    ],
)
def test_argument_splits_only_at_known_keys(argument, expected):
    assert parse_argument(argument, KNOWN) == expected


def test_home_is_expanded():
    values = parse_argument("base=~/models/a,post=b~c", KNOWN)
    assert values == {"base": str(pathlib.Path.home() / "models/a"), "post": "b~c"}


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("bose=a", ["bose", "did you mean 'base'"]),
        ("zzz=a", ["zzz", "base, post"]),
        ("base=", ["base", "no value"]),
        ("base", ["base", "no value"]),
        ("base=a,base=b", ["base", "twice"]),
        ("base=a,psot=b", ["'psot'", "did you mean 'post'"]),
    ],
)
def test_bad_arguments_are_named(argument, words):
    with pytest.raises(InputError) as caught:
        parse_argument(argument, KNOWN)
    assert all(word in str(caught.value) for word in words)


def test_a_config_without_argument_refuses_one():
    with pytest.raises(InputError, match="takes no argument"):
        parse_argument("quick=1", ())


def test_a_word_is_an_argument_by_itself():
    assert parse_argument("quick", words=("quick",)) == {"quick": ""}
    config = load("reference").get_config("quick")
    assert (config.name, config.evaluation.limit) == ("reference-quick", 30)
    assert load("reference").get_config().evaluation.limit == 0
    sampled = {"base-rl", "base-rejection"}
    assert set(load("reference").get_config().pairs) - set(config.pairs) == sampled
    with pytest.raises(InputError, match="known: quick"):
        load("reference").get_config("full")
    with pytest.raises(InputError, match="takes no value"):
        load("reference").get_config("quick=1")


def test_default_config_is_locked_and_complete():
    config = default_config("x", {"a": {"base": "b", "post": "p"}})
    assert set(config) == {leaf.partition(".")[0] for leaf in OPTIONS} | {"name", "pairs"}
    leaves = config.to_dict()
    for leaf in OPTIONS:
        section, _, key = leaf.rpartition(".")
        assert key in (leaves[section] if section else leaves)
    assert config.to_dict()["pairs"]["a"] == {
        "base": "b",
        "post": "p",
        "paper": "",
        "other": "",
        "text": "",
        "constructed": True,
    }
    with pytest.raises(AttributeError):
        config.factorization = "svd_f32"


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.py")))
def test_every_config_file_builds_and_shows_its_command(name):
    module = load(name)
    config = module.get_config()
    assert isinstance(config, ConfigDict)
    assert config.name == name
    assert config.is_locked
    assert f"--config=configs/{name}.py" in (module.__doc__ or "")


def test_pair_config_follows_its_leaves():
    config = load("pair").get_config("base=one,post=two")
    assert (config.pairs.pair.base, config.pairs.pair.post) == ("one", "two")
    config.base = "odd,base=path"
    assert config.pairs.pair.base == "odd,base=path"


def test_configs_cover_the_papers_models(shared):
    import json

    tables = json.loads((shared / "paper" / "tables.json").read_text())
    wanted = {(base, post) for base, _, post in tables["table9_models"]}
    wanted |= {(base, post) for base, post, _ in tables["table10_models"]}
    found = set()
    for path in CONFIGS.glob("*.py"):
        for pair in load(path.stem).get_config().pairs.values():
            if pair.base and pair.post:
                found.add((pair.base.rpartition("/")[2], pair.post.rpartition("/")[2]))
    assert wanted <= found


def test_a_home_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="base=~nosuchuser/x"):
        parse_argument("base=~nosuchuser/x", KNOWN)
