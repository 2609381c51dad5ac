"""Tests of model.train."""
