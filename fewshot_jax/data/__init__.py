"""Sources of labelled texts, episodes, splits and tokenization."""
