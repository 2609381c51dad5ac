"""Tests of tasks.corpus."""
