"""Episodic evaluation, statistics and the floors reported beside every result."""
