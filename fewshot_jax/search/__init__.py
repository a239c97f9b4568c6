"""Search spaces, and studies of runs."""
