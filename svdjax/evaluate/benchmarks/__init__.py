"""Benchmarks: questions from files or the hub, and grading of what a model answers to them."""

from svdjax.evaluate.benchmarks.extract import choice_letter, last_boxed
from svdjax.evaluate.benchmarks.grading import Grader, Verdict
from svdjax.evaluate.benchmarks.readers import BENCHMARKS, read_benchmark
from svdjax.evaluate.benchmarks.records import in_repeat
from svdjax.evaluate.benchmarks.sources import SPLITS
from svdjax.text.question import Question

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
