"""Tests of model.core."""
