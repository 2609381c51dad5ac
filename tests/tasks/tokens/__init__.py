"""Tests of tasks.tokens."""
