"""Filters of documents and edits of their text: language, quality rules, personal data."""
