"""Talking with a model: ``python -m model.serve`` (OpenAI-compatible), the terminal, one script."""
