"""Tests of model.eval."""
