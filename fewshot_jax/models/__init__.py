"""Backbones: Flax Linen modules, applied as pure functions on plain parameter trees."""
