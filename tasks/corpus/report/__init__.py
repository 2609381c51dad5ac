"""The corpus report: one page for people and the same numbers as JSON."""
