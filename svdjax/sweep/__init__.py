"""The sweep of a config: every stage over every pair, its plan, dry run, state and pages."""
