"""Benchmarks: questions from files or the hub, and grading of responses."""

from svdjax.evaluate.benchmarks.extract import choice_letter, last_boxed
from svdjax.evaluate.benchmarks.files import SPLITS
from svdjax.evaluate.benchmarks.grading import Grader, Verdict
from svdjax.evaluate.benchmarks.questions import Question
from svdjax.evaluate.benchmarks.readers import BENCHMARKS, read_benchmark
from svdjax.evaluate.benchmarks.records import in_repeat

__all__ = [
    "BENCHMARKS",
    "SPLITS",
    "Grader",
    "Question",
    "Verdict",
    "choice_letter",
    "in_repeat",
    "last_boxed",
    "read_benchmark",
]
