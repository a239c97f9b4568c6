"""Hugging Face checkpoints: their files, and the names and layouts of each family of models."""
