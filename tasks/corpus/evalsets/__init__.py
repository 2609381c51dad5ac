"""Evaluation sets as items and prompts, and the quality of generated text."""
