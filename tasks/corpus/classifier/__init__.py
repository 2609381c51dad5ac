"""A linear quality classifier: labels, training, scores, selection."""
