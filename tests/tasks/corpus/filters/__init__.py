"""Tests of tasks.corpus.filters."""
