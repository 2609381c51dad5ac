"""Tests of tasks.corpus.sources."""
