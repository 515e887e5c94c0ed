"""Grading with a real worker: hard cases, real answers, and workers that hang, die and end."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from svdjax.errors import InputError
from svdjax.evaluate.benchmarks import Grader, Question, Verdict, grading, read_benchmark
from svdjax.text import worker

HANDLER = pathlib.Path(grading.__file__).with_name("math_handler.py")
LOOP = pathlib.Path(worker.__file__).with_name("worker_loop.py")
TOWER = "9^{9^{9^{9}}}"


def asked(gold: str, letters: str = "") -> Question:
    return Question("1", "?", "", gold, "choice" if letters else "math", letters)


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("18", "18", True),
        ("18", " 18. ", True),
        ("18", "18.00", True),
        ("18", "19", False),
        ("2125", "2,125", True),
        ("58,500", "58500", True),
        (r"10,\!080", "10080", True),
        ("1.25", "1,25", False),
        ("1234", "1.234", False),
        # Fractions.
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", r"\dfrac{1}{2}", True),
        (r"\frac{1}{2}", "1/2", True),
        ("0.5", r"\frac12", True),
        (r"137 \frac{1}{2}", "137.5", True),
        (r"\frac{1}{3}", "0.33", False),
        # Equal to six decimal places, which is math-verify's rounding.
        (r"\frac{1}{3}", "0.333333", True),
        # Units.
        ("18", r"\$18", True),
        ("18", "$18", True),
        ("18", r"18\text{ dollars}", True),
        # Read as the product of its letters; debatable, and math-verify's answer.
        ("18", "18 dollars", False),
        ("5", r"5\text{ cm}", True),
        ("5", "5 cm", True),
        ("90", r"90^\circ", True),
        (r"90^\circ", "90", True),
        (r"15\mbox{ cm}^2", "15", True),
        (r"\$18.90", "18.9", True),
        # The base of a number counts as a unit; debatable.
        ("4210_{5}", "4210", True),
        # Text.
        (r"\text{Evelyn}", "Evelyn", True),
        (r"\text{(B)}", "B", True),
        (r"\text{even}", r"\text{odd}", False),
        ("3", r"\text{three}", False),
        # Per cent: both readings count; debatable.
        ("50", r"50\%", True),
        ("0.5", r"50\%", True),
        ("50", r"5\%", False),
        # Sets, intervals, tuples, matrices.
        (r"\{1,2\}", r"\{2,1\}", True),
        ("1,-2", "-2,1", True),
        ("(1,2)", "(1, 2)", True),
        ("(1,2)", "(2,1)", False),
        ("(1,2,3)", "(1,3,2)", False),
        ("[0,1)", "[0, 1)", True),
        ("[0,1)", "(0,1)", False),
        (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)", True),
        (r"\begin{pmatrix}1/5\\-2\end{pmatrix}", r"\begin{pmatrix}0.2\\-2\end{pmatrix}", True),
        ("12", "12, 13", False),
        # Terms.
        ("x+1", "1+x", True),
        ("x+1", "x-1", False),
        ("4", "x=4", True),
        (r"2\sqrt{2}", r"\sqrt8", True),
        (r"1 \pm \sqrt{19}", r"1+\sqrt{19}, 1-\sqrt{19}", True),
        ("1000000", r"1 \times 10^6", True),
        # Alike and wrong.
        ("3", "-3", False),
        ("-3", "3", False),
        # A minus sign of typographers counts as one.
        ("-3", "−3", True),
        ("0", "O", False),
        # Noise.
        ("3", "🦆", False),
        ("3", "３", False),
        ("3", "\u202e3\u0000\ud800", False),
        ("3", r"\frac{}{}", False),
        ("3", r"\begin{matrix}", False),
        ("3", r"\input{/etc/passwd}", False),
        ("3", r"__import__('os').getpid()", False),
        ("3", r"\{" * 200, False),
    ],
)
def test_hard_cases(grader, gold, answer, correct):
    verdict = grader.grade(asked(gold), f"Thus \\boxed{{{answer}}}.")
    assert (verdict.correct, verdict.extracted) == (correct, answer.strip())
    assert verdict.reason in ("", "not comparable") if not correct else verdict.reason == ""


@pytest.mark.parametrize(
    ("gold", "answer", "correct"),
    [
        ("18", "18 dollars", True),
        ("18", r"18\text{ dollars}", True),
        ("18", r"\text{18 dollars}", True),
        ("18", r"\$18", True),
        ("18", "$18.00", True),
        ("18", "US$18", True),
        ("18", "18 €", True),
        ("18", "**18 miles per hour**", True),
        ("18", "18 km/h", True),
        ("18", r"18~\mathrm{m}^2", True),
        ("18", "18 m", True),
        ("5", "5 °C", True),
        ("-18", "-$18", True),
        ("-18", "$−18", True),
        ("200000", r"200\,000", True),
        ("200000", "200\u2009000", True),
        ("200000", "200\u202f000 dollars", True),
        ("200000", "200{,}000", True),
        ("200000", "200 000", True),
        ("2.5", "2.50 cups", True),
        ("0.5", r"\frac{1}{2}", True),
        ("18", "19 dollars", False),
        ("18", r"18\%", False),
        ("18", "18%", False),
        ("18", "18 percent", False),
        ("0.18", r"18\%", False),
        ("18", "18 million", False),
        ("18", "18 dozen", False),
        ("18", r"18\text{ million dollars}", False),
        ("18000000", r"18\text{ million dollars}", True),
        ("1500000", "1.5 million", True),
        ("36", "3 dozen eggs", True),
        ("10", "10^3", False),
        ("1000", "10^3", True),
        ("18", "18 x", False),
        ("18", "18 and 20", False),
        ("18", "18 to 20 dollars", False),
        ("11111", "11, 111", False),
        ("200", "200 000", False),
        ("1234567", "1234 567", False),
    ],
)
def test_numbers_with_units(grader, gold, answer, correct):
    question = Question("1", "?", "", gold, "number")
    assert grader.grade(question, f"\\boxed{{{answer}}}").correct is correct


@pytest.mark.parametrize(
    ("response", "verdict"),
    [
        ("", Verdict(False, None, "no box")),
        ("The answer is 3.", Verdict(False, None, "no box")),
        (r"\boxed{3", Verdict(False, None, "no box")),
        ("noise {\\} " * 1000, Verdict(False, None, "no box")),
        ("noise {\\} " * 1000 + r"\boxed{3}", Verdict(True, "3")),
        (r"\boxed{ }", Verdict(False, "", "empty box")),
        (r"\boxed{4} no, \boxed{3}", Verdict(True, "3")),
        (r"\boxed{3} no, \boxed{4}", Verdict(False, "4")),
        (r"\boxed{\boxed{3}}", Verdict(True, r"\boxed{3}")),
        (r"\boxed{" + "1" * 2001 + "}", Verdict(False, "1" * 2001, "too long")),
        # Empty to math-verify.
        (r"\boxed{$}", Verdict(False, "$", "not comparable")),
    ],
)
def test_responses(grader, response, verdict):
    assert grader.grade(asked("3"), response) == verdict


def test_choices():
    question = asked("C", "ABCD")
    with Grader() as grader:
        assert grader.grade(question, r"\boxed{C}") == Verdict(True, "C")
        assert grader.grade(question, r"\boxed{\text{(c)}}") == Verdict(True, "C")
        assert grader.grade(question, r"\boxed{A. text}") == Verdict(False, "A")
        assert grader.grade(question, r"\boxed{E}") == Verdict(False, "E", "not a choice")
        assert grader.grade(question, "C") == Verdict(False, None, "no box")
        assert grader.grade(asked("12"), r"\boxed{12.0}").correct
        # Nothing of this needs the worker.
        assert grader.worker.process is None


def test_gold_answers_are_correct(shared, grader):
    folder = shared / "benchmarks"
    read = {
        "gsm8k": folder / "gsm8k" / "test.jsonl",
        "math500": folder / "math500" / "test.jsonl",
        "mmlu": folder / "mmlu",
        "commonsenseqa": folder / "commonsenseqa" / "dev_rand_split.jsonl",
    }
    for name, path in read.items():
        for question in read_benchmark(name, path):
            verdict = grader.grade(question, f"Thus \\boxed{{{question.answer}}}.")
            assert verdict == Verdict(True, question.answer), question.id
    # Equal texts do not get to the worker, so go there directly.
    for question in read_benchmark("math500", read["math500"])[::3]:
        assert grader.verify(question.answer, question.answer) == (True, ""), question.id


def test_what_takes_forever_is_ended_and_the_next_is_compared():
    with Grader(timeout=0.5) as grader:
        assert grader.grade(asked("4"), r"\boxed{\sqrt{16}}").correct
        before = time.monotonic()
        hung = grader.grade(asked("4"), rf"\boxed{{{TOWER}}}")
        assert hung == Verdict(False, TOWER, "timeout")
        # Remembered.
        assert grader.grade(asked("4"), rf"again \boxed{{{TOWER}}}") == hung
        assert 0.5 <= time.monotonic() - before < 5
        assert grader.grade(asked("5"), r"\boxed{\sqrt{25}}").correct


def test_a_worker_that_dies():
    grader = Grader(10)
    assert grader.verify("4", r"\sqrt{16}") == (True, "")
    first = grader.worker.running()
    # While it is stopped it is alive, and then it dies with the request.
    os.killpg(first.pid, signal.SIGSTOP)
    killer = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; kill -9 -{first.pid}"])
    assert grader.verify("4", r"\sqrt{16}") == (False, "not comparable")
    killer.wait()
    assert grader.verify("4", r"\sqrt{16}") == (True, "")
    # While nobody waits for it.
    second = grader.worker.running()
    second.kill()
    second.wait()
    assert grader.verify("4", r"\sqrt{16}") == (True, "")
    grader.close()
    grader.close()


def test_the_worker_ends_itself():
    command = [sys.executable, "-P", str(LOOP), str(HANDLER), str(2 << 30)]
    # Its parent is gone.
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"ready": True})
    # Its parent is gone and it is calculating.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        request = {"gold": "3", "answer": TOWER, "wall": 0.5, "computing": 0}
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.close()
        assert process.wait(30) == 0


def test_the_worker_is_bounded_and_deaf_to_interrupts():
    grader = Grader(10)
    try:
        process = grader.worker.running()
        limits = pathlib.Path(f"/proc/{process.pid}/limits")
        if limits.exists():
            line = next(x for x in limits.read_text().splitlines() if "address space" in x)
            assert int(line.split()[3]) <= 2 << 30
        process.send_signal(signal.SIGINT)
        assert grader.verify("4", r"\sqrt{16}") == (True, "")
        assert grader.worker.running() is process
    finally:
        grader.close()


def test_without_math_verify(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('half installed')")
    monkeypatch.syspath_prepend(tmp_path)
    with Grader() as grader, pytest.raises(InputError, match=r"half installed.*pip install"):
        grader.grade(asked("4"), r"\boxed{\sqrt{16}}")
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'svdjax\[eval\]'"):
        Grader()
