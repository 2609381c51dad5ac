"""Tests of tasks.corpus.evalsets."""
