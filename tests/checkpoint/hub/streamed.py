"""Reading of checkpoints that the hub on loopback has."""

from __future__ import annotations

import pytest

from svdjax.checkpoint import (
    open_checkpoint,
)
from svdjax.checkpoint.hub import Streaming
from svdjax.errors import InputError
from tests.support import tiny
from tests.support.hub_server import TOKEN

WEIGHTS = "model.safetensors"
SHARD = "model-00002-of-00003.safetensors"


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
