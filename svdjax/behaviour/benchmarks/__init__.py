"""Benchmarks: questions from files or the hub, and grading of what a model answers to them."""

from svdjax.behaviour.benchmarks.extract import choice_letter, last_boxed
from svdjax.behaviour.benchmarks.grading import Grader, Verdict
from svdjax.behaviour.benchmarks.question import Question
from svdjax.behaviour.benchmarks.readers import BENCHMARKS, read_benchmark
from svdjax.behaviour.benchmarks.records import in_repeat
from svdjax.behaviour.benchmarks.sources import SPLITS

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
