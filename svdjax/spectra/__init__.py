"""Singular values and vectors of two checkpoints compared: stage, results, tables, figures."""
