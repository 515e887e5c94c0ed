"""Making of the reference family: text, tokenizer, recipes, training, grading.

Imports within are relative: the scripts beside this folder know it as `reference`, the tests as
`tools.reference`.
"""
