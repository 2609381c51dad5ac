"""Exact, normalised and near-duplicates over all files.

``signatures`` computes the keys of one file; ``clusters`` decides over all files which documents
are removed; ``near_duplicates.Selection`` decides which of them are near-duplicates.
"""
