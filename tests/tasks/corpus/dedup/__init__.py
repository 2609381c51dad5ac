"""Tests of tasks.corpus.dedup."""
