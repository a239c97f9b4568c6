"""The applications, classes listed in `table`, and what they share.

A class says how its records are encoded and judged. Shared are `classification`, `writing`, `labelled_texts`, and the
model of a run that reads texts: `text_model`, its `text_codec` and its `text_functions`.
"""
