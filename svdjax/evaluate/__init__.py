"""Answers of models to benchmarks: command, stage, grading, results, page."""
