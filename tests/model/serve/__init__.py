"""Tests of model.serve."""
