"""Fingerprints: whether two models share an origin. Alignment, statistic, verdict, page."""
