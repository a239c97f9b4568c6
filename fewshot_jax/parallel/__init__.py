"""Meshes and sharding of the task axis."""
