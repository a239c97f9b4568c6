"""The crash-safe loop around a pure step, and the files of a run; knows no learner and no application."""
