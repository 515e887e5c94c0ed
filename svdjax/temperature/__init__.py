"""Models with scaled singular values: stage, plan, measures, results, page."""
