"""Tests of tasks.corpus.classifier."""
