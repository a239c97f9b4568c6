"""One file per application: encode records, loss, predict, score."""
