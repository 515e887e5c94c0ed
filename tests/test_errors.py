"""Messages stay one safe line, whatever names the input brings."""

from __future__ import annotations

import signal

from svdjax.errors import InputError, Interrupted, printable


def test_a_message_is_one_line_without_control_characters():
    message = str(InputError("a.safetensors: tensor x\n\ty\x1b[31m\x00 is\r\n odd"))
    assert message == "a.safetensors: tensor x y\\x1b[31m\\x00 is odd"


def test_printable_keeps_text_and_shortens_the_middle():
    assert printable("model.layers.0.ü") == "model.layers.0.ü"
    assert printable("a\nb") == "a\\nb"
    shown = printable("x" * 100 + "end", 20)
    assert len(shown) == 20
    assert shown.endswith("end")


def test_interruptions_carry_the_shells_status():
    assert Interrupted("stopped").status == 143
    assert Interrupted("stopped", signal.SIGINT).status == 130
