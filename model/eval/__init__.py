"""Evaluation of a trained model: ``python -m model.eval``, and scaling laws over many."""
