"""Meta-learning algorithms: pure functions on pytrees."""
