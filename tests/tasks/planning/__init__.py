"""Tests of tasks.planning."""
