"""Exact, normalised and near-duplicates over all files."""
