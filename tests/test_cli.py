"""The frame of every command: help, flag and config errors, exit statuses. Real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from svdjax import config_files
from svdjax.options import OPTIONS
from tests.test_options import CONFIGS

COMMAND = "python -m svdjax.sweep: "


def sweep(*flags: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "svdjax.sweep", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("flag", ["--help", "-help", "--helpshort", "-h", "--helpfull"])
def test_help_explains_and_ends_with_0(flag):
    done = sweep(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config=configs/reference.py" in done.stdout
    for name in ("--workdir", "--[no]dry_run"):
        assert name in done.stdout


def test_help_lists_the_leaves_of_a_config():
    text = sweep("--help").stdout
    for leaf in ("factorisation", "group_bytes", "split_fused"):
        assert f"  {leaf}:" in text


def test_help_and_flag_errors_do_without_jax():
    code = (
        "import runpy, sys; sys.argv = ['sweep', *sys.argv[1:]]\n"
        "try: runpy.run_module('svdjax.sweep', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as stop: print('status', stop.code, 'jax' in sys.modules)"
    )
    for flag, status in (("--help", 0), ("--nonsense", 2), ("--config=nowhere.py", 2)):
        done = subprocess.run(
            [sys.executable, "-c", code, flag], capture_output=True, text=True, timeout=60
        )
        assert done.stdout.splitlines()[-1] == f"status {status} False", done.stderr


PAIR = f"--config={CONFIGS / 'pair.py'}"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--config is required"]),
        (["--config"], ["--config"]),
        (["--confg=x"], ["confg", "Did you mean: config"]),
        (["--config=nowhere.py"], ["nowhere.py", "does not exist"]),
        ([PAIR, "stray"], ["'stray'"]),
        ([f"{PAIR}:bose=x"], ["'bose'", "did you mean 'base'"]),
        ([PAIR, "--config.corners=3"], ["pair.py", "'corners'", "did you mean 'corner'"]),
        ([PAIR, "--config.nulls.drows=3"], ["'nulls.drows'", "did you mean 'nulls.draws'"]),
        ([PAIR, "--config.stages=('spectra','nuls')"], ["'nuls'", "did you mean 'nulls'"]),
        ([f"{PAIR}:base=a,post=b", "--config.name=../../esc"], ["config.name='../../esc'"]),
        ([PAIR, "--config.corner=many"], ["config.corner", "many"]),
        ([PAIR], ["pair: base is not given"]),
        ([f"{PAIR}:base=/nowhere/a,post=/nowhere/b"], ["/nowhere/a", "/nowhere/b"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(flags, words, tmp_path):
    done = sweep(*flags, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(COMMAND)
    assert all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("def get_config(): return 1 / 0", ["ZeroDivisionError"]),
        ("import nowhere_to_be_found", ["ModuleNotFoundError", "nowhere_to_be_found"]),
        ("def get_config(:", ["SyntaxError"]),
        ("def get_config(): open('/nowhere/file')", ["/nowhere/file"]),
    ],
)
def test_a_faulty_config_file_is_named(content, words, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(content)
    done = sweep(f"--config={path}")
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in [str(path), *words]), line


def test_an_internal_fault_is_a_traceback_and_status_1(tmp_path):
    code = (
        "import sys\nfrom svdjax import cli\n"
        "def main(): raise ZeroDivisionError('inner')\n"
        "sys.argv = ['x']; cli.run(main)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "inner" in done.stderr


@pytest.mark.parametrize(
    ("leaf", "near"),
    [
        ("probes.promts", "probes.prompts"),
        ("evaluation.lmit", "evaluation.limit"),
        ("evaluation.dtype", "decoder.dtype"),
        ("nuls.draws", "nulls.draws"),
        ("draws", "nulls.draws"),
        ("measur", "measure"),
    ],
)
def test_a_misspelt_leaf_is_sought_in_its_section_first(leaf, near):
    assert config_files.near_leaves(leaf, OPTIONS) == [near]


def test_a_leaf_in_a_section_is_named_as_it_was_typed():
    done = sweep(f"{PAIR}:base=a,post=b", "--config.probes.limt=3")
    assert done.returncode == 2
    assert "has no leaf 'probes.limt'; did you mean 'probes.limit'?" in done.stderr
