"""Tests of tasks.stages."""
