"""svdjax's decoder as a model of lm-evaluation-harness, and its command."""
