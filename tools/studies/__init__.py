"""Studies of open questions on the reference family: a module each, its page in docs/studies.

``python -m tools.studies.NAME`` measures and writes docs/studies/NAME.json and its plots, with
``--quick`` in small, as a test does; ``python -m tools.studies.pages`` writes the pages from their
templates and the JSON.
"""
