"""Training: ``python -m model.train``, its loop, data loader and checkpoints."""
