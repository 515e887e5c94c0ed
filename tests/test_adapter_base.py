"""The base of an adapter that names a 4-bit model, or none, given to the commands without one."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable

import pytest

from svdjax import reference
from svdjax.errors import InputError
from svdjax.evaluate.job import EvaluateJob
from svdjax.evaluate.run import dry_run_evaluate
from svdjax.fingerprint.job import FingerprintJob
from svdjax.fingerprint.run import dry_run_fingerprint
from svdjax.harness.__main__ import _dry_run
from svdjax.probe.job import ProbeJob
from svdjax.probe.run import dry_run_probe
from tests.support.adapters import make_adapter

BASE = str(reference.path("instruct"))


def evaluate(model: str, base: str, folder: pathlib.Path) -> str:
    job = EvaluateJob(model, "questions", str(folder / "q.jsonl"), str(folder / "out"), base=base)
    return dry_run_evaluate(job)


def probe(model: str, base: str, folder: pathlib.Path) -> str:
    prompts, out = str(folder / "q.jsonl"), str(folder / "out")
    return dry_run_probe(ProbeJob(models=(model,), prompts=prompts, out=out, base=base))


def fingerprint(model: str, base: str, folder: pathlib.Path) -> str:
    return dry_run_fingerprint(FingerprintJob(BASE, model, str(folder / "out.json"), base=base))


def harness(model: str, base: str, folder: pathlib.Path) -> str:
    return _dry_run(["--model_args", f"pretrained={model},base={base}"])


@pytest.mark.parametrize("command", [evaluate, probe, fingerprint, harness])
@pytest.mark.parametrize("named", [None, "unsloth/llama-3-8b-bnb-4bit"])
def test_is_given_by_a_flag(
    tmp_path: pathlib.Path, command: Callable[[str, str, pathlib.Path], str], named: str | None
) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": 2}))
    adapter = str(
        make_adapter(
            tmp_path / "adapter", pathlib.Path(BASE), base_model_name_or_path=named, rank=2
        )
    )
    with pytest.raises(InputError, match="give the base by --base"):
        command(adapter, "", tmp_path)
    assert adapter in command(adapter, BASE, tmp_path)
    with pytest.raises(InputError, match="there is no LoRA adapter to merge into it; leave it out"):
        command(BASE, BASE, tmp_path)
