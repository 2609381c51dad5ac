"""Tests of tasks.corpus.decontamination."""
