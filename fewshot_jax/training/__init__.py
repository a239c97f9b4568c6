"""Meta-training: experiment, state, pure step, loop, checkpoints and metrics."""
