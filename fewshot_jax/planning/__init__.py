"""Memory and cost, read from compiled programs."""
