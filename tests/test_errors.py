"""Messages stay one safe line, whatever names the input brings."""

from __future__ import annotations

import signal

import pytest

from svdjax.engine.progress import Progress, note
from svdjax.errors import InputError, Interrupted, WorkersLost, did_you_mean, printable


def test_a_message_is_one_line_without_control_characters():
    message = str(InputError("a.safetensors: tensor x\n\ty\x1b[31m\x00 is\r\n odd"))
    assert message == "a.safetensors: tensor x y\\x1b[31m\\x00 is odd"


def test_a_name_that_ends_with_the_word_is_nearer_than_one_that_is_spelt_alike():
    assert did_you_mean("up_proj", ["o_proj", "experts.up_proj"]) == (
        "; did you mean 'experts.up_proj'?"
    )
    assert did_you_mean("q_prj", ["q_proj", "experts.up_proj"]) == "; did you mean 'q_proj'?"
    assert not did_you_mean("", ["q_proj"])


@pytest.mark.parametrize("kind", [InputError, Interrupted, WorkersLost])
def test_a_message_is_bounded_whatever_it_quotes(kind):
    name = "a" * 100_000
    message = str(kind(f"model/config.json: {name} is {'b ' * 50_000}; expected a number"))
    assert len(message) <= 1900
    assert message.startswith("model/config.json: aaa")
    assert message.endswith("expected a number")
    assert "\x1b" not in str(kind("\x1b[31m"))


def test_progress_lines_are_bounded_and_printable(capsys):
    note(f"laid out \x1b]0;owned\x07{'x' * 5000}")
    progress = Progress("spectra")
    progress.begin("spectra", 1, 1.0)
    progress.advance(1.0, f"computed \x1b[2J{'y' * 5000}")
    progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.isprintable() and len(line) < 400 for line in lines)


def test_printable_keeps_text_and_shortens_the_middle():
    assert printable("model.layers.0.ü") == "model.layers.0.ü"
    assert printable("a\nb") == "a\\nb"
    shown = printable("x" * 100 + "end", 20)
    assert len(shown) == 20
    assert shown.endswith("end")


def test_interruptions_carry_the_shells_status():
    assert Interrupted("stopped").status == 143
    assert Interrupted("stopped", signal.SIGINT).status == 130
