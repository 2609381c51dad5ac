"""Tests of tasks.corpus.report."""
