"""Language models from raw text."""
