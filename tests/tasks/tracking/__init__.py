"""Tests of tasks.tracking."""
