"""Measurements behind the claims in docs/results.md: one file per claim, run by `make bench`."""
