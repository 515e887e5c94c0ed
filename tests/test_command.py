"""The command svdjax: what it offers, what it says to what it cannot use, what it does twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from svdjax import __version__, reference
from svdjax.__main__ import COMMANDS
from svdjax.completion import candidates
from tests.support.commands import ROOT, call

BASE, INSTRUCT = (str(reference.path(name)) for name in ("base", "instruct"))
QUESTIONS = str(reference.heldout_path())
_BLOCKED = "import sys; sys.modules.update(dict.fromkeys({names!r}))\n"


def svdjax(*arguments: str, blocked: tuple[str, ...] = (), **options) -> tuple[int, str, str]:
    """Status, stdout and stderr of the command, in a process without some packages."""
    code = _BLOCKED.format(names=blocked) + (
        "import runpy; sys.argv[0] = 'svdjax'; runpy.run_module('svdjax', None, '__main__', True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )
    return done.returncode, done.stdout, done.stderr


def test_help_and_version_teach_at_once():
    blocked = ("jax", "numpy", "ml_collections")
    for arguments in ((), ("--help",), ("help",)):
        status, out, err = svdjax(*arguments, blocked=blocked)
        assert (status, err) == (0, "")
        assert all(f"svdjax {name}" in out for name in COMMANDS)
        assert "--config=reference:quick" in out
    assert svdjax("--version", blocked=blocked) == (0, f"svdjax {__version__}\n", "")


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "completion"])
def test_every_command_explains_itself_without_jax(command):
    status, out, err = svdjax(command, "--help", blocked=("jax", "numpy"))
    assert (status, err) == (0, "")
    assert f"svdjax {command}" in out
    for flag in ("dry_run", "quiet", "--progress"):
        assert flag in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compar"], ["svdjax: there is no command 'compar'; did you mean 'compare'?"]),
        ([BASE, INSTRUCT], [f"svdjax compare {BASE} {INSTRUCT}"]),
        (["compare", BASE], ["svdjax compare: expected BASE POST, found", BASE]),
        (["compare", "a", "b", "c"], ["expected BASE POST, found 'a', 'b', 'c'"]),
        (["compare", "--out=x", "./a", "./b"], ["./a: no such directory", "./b: no such"]),
        (["sweep", BASE, INSTRUCT], ["unexpected argument", "svdjax compare BASE POST"]),
        (["sweep", f"--config={BASE}"], ["is a directory", f"pair:base={BASE},post=DIR"]),
        (["construct", BASE, INSTRUCT], ["--base=DIR --post=DIR"]),
        (["evaluate", BASE], ["--model=DIR"]),
        (["probe", BASE, INSTRUCT], ["--models=DIR,DIR"]),
        (["fingerprint", BASE], ["--reference=DIR --suspect=DIR"]),
        (["harness", "--progress=loud"], ["svdjax harness: ", "--progress", "'loud'"]),
        (["trajectory", "nowhere"], ["steps=nowhere cannot be read"]),
        (["completion", "csh"], ["'csh': expected one of bash, zsh, fish"]),
    ],
)
def test_what_cannot_be_used_is_one_line_with_a_remedy(arguments, words, tmp_path):
    status, out, err = svdjax(*arguments, cwd=tmp_path)
    assert (status, out) == (2, ""), err
    (line,) = err.splitlines()
    assert line.startswith("svdjax")
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == []


def test_two_checkpoints_are_compared_and_the_second_time_nothing_is_done(tmp_path):
    arguments = (
        *(BASE, "--config.stages=spectra", INSTRUCT, f"--out={tmp_path}/out"),
        *("--config.measure=vectors", "--config.devices=1"),
    )
    first = call("compare", *arguments, "--progress=json")
    assert first.status == 0, first.err
    lines = [json.loads(line) for line in first.err.splitlines()]
    assert any(line.get("stage") == "spectra" for line in lines)
    state = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert (state["name"], state["config"]["stages"]) == ("pair", ["spectra"])
    assert state["config"]["pairs"]["pair"]["post"] == INSTRUCT
    again = call("compare", *arguments, "--quiet")
    assert (again.status, again.err) == (0, "")
    assert again.out.startswith("nothing to do: already finished")
    other = call("compare", *arguments, "--config.measure=all")
    assert other.status == 2
    assert f"--out={tmp_path}/out was made with another config" in other.err


def test_nulls_are_asked_for_by_a_flag(tmp_path):
    done = call("compare", BASE, INSTRUCT, f"--out={tmp_path}/out", "--nulls", "--dry_run")
    assert done.status == 0, done.err
    assert "nulls" in done.out
    assert list(tmp_path.iterdir()) == []


def test_a_fingerprint_given_again_does_nothing_and_with_other_limits_is_made(tmp_path):
    arguments = (f"--reference={BASE}", f"--suspect={BASE}", f"--out={tmp_path}/verdict.json")
    assert call("fingerprint", *arguments).status == 0
    before = (tmp_path / "verdict.json").read_bytes()
    again = call("fingerprint", *arguments)
    assert (again.status, again.err) == (0, "")
    assert again.out.startswith("nothing to do: already finished\nrelated")
    assert (tmp_path / "verdict.json").read_bytes() == before
    other = call("fingerprint", *arguments, "--derived=0.6")
    assert other.status == 0
    assert not other.out.startswith("nothing")


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (
            "construct",
            (f"--base={BASE}", f"--post={INSTRUCT}", "--construction=eq11", "--modules=mlp"),
            ["gate_proj", "5 layers"],
        ),
        (
            "evaluate",
            (f"--model={INSTRUCT}", "--benchmark=questions", f"--data={QUESTIONS}", "--limit=3"),
            ["3 question(s) x 3", "qwen2, 5 layers"],
        ),
        (
            "probe",
            (f"--models={BASE},{INSTRUCT}", f"--prompts={QUESTIONS}", "--limit=3"),
            ["base: ", "instruct: ", "3 prompt(s)"],
        ),
        ("fingerprint", (f"--reference={BASE}", f"--suspect={INSTRUCT}"), ["5 and 5 blocks"]),
    ],
)
def test_a_dry_run_tells_and_writes_nothing(command, arguments, words, tmp_path):
    done = call(command, *arguments, f"--out={tmp_path}/out", "--dry_run")
    assert (done.status, done.err) == (0, "")
    assert "nothing is written" in done.out
    assert all(word in done.out for word in [*words, str(tmp_path / "out")]), done.out
    assert list(tmp_path.iterdir()) == []


def test_a_pair_given_the_wrong_way_round_is_told(tmp_path):
    post = tmp_path / "tuned"
    shutil.copytree(INSTRUCT, post)
    (post / "README.md").write_text("---\nlicense: mit\nbase_model:\n- someone/base\n---\nA model.")
    flags = ("--construction=eq11", "--modules=mlp", f"--out={tmp_path}/out", "--dry_run")
    wrong = call("construct", f"--base={post}", f"--post={BASE}", *flags)
    assert wrong.status == 0
    assert "base and post look swapped" in wrong.err
    assert str(post / "README.md") in wrong.err
    assert call("construct", f"--base={BASE}", f"--post={post}", *flags).err == ""
    (post / "README.md").unlink()
    config = json.loads((post / "config.json").read_text())
    (post / "config.json").write_text(json.dumps(config | {"_name_or_path": "/data/base/"}))
    wrong = call("construct", f"--base={post}", f"--post={BASE}", *flags)
    assert str(post / "config.json") in wrong.err


def test_the_core_does_without_what_the_extras_install(tmp_path):
    blocked = ("matplotlib", "math_verify")
    status, out, err = svdjax("sweep", "--config=reference:quick", blocked=blocked, cwd=tmp_path)
    assert (status, out) == (2, "")
    assert "pip install 'svdjax[eval]'" in err
    code = _BLOCKED.format(names=blocked) + (
        "import svdjax.construct.checkpoint, svdjax.evaluate.run, svdjax.fingerprint.run\n"
        "import svdjax.probe.run, svdjax.sweep.dry_run, svdjax.sweep.run\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd=ROOT)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("svdjax comp", ["compare", "completion"]),
        ("svdjax completion ", ["bash", "zsh", "fish"]),
        ("svdjax compare models/a", []),
        ("svdjax nonsense --x", []),
    ],
)
def test_words_that_complete_a_line(line, expected):
    assert candidates(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("svdjax sweep --work", ["--workdir=", "--workers="]),
        ("svdjax sweep --config=refe", ["--config=reference"]),
        ("svdjax compare a b --config.nulls.d", ["--config.nulls.draws="]),
        ("svdjax evaluate --benchmark=g", ["--benchmark=gsm8k", "--benchmark=gpqa"]),
    ],
)
def test_flags_and_values_that_complete_a_line(line, expected):
    assert svdjax("completion", "words", line) == (0, "\n".join(expected) + "\n", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes(tmp_path):
    program = tmp_path / "svdjax"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m svdjax "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(svdjax completion bash)"\n'
        'for COMP_LINE in "svdjax comp" "svdjax sweep --config=refe" "svdjax compare a"; do\n'
        '  COMP_POINT=${#COMP_LINE}; _svdjax 2>/dev/null; echo "${COMPREPLY[*]}"\n'
        "done"
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["compare completion", "reference", ""], done.stderr
