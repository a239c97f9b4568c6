"""What is done with a meta-learning run: train, evaluate, compare, hold out, plan, estimate and export it.

The loop itself is in `runs`; scores of episodes and statistics are in `evaluation`.
"""
