"""Training documents that contain text of evaluation sets."""
