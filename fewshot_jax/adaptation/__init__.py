"""From a few labelled examples to a saved model that predicts."""
