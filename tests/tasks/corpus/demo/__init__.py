"""Tests of tasks.corpus.demo."""
