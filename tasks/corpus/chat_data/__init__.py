"""Conversations and preference pairs: read, checked, split into training and held-out sets."""
