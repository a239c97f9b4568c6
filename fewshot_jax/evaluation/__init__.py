"""Episodic evaluation, statistics and the baselines reported beside every result."""
