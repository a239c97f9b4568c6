"""The crash-safe loop around any pure step, and the files of a run; calls no learner and no application."""
