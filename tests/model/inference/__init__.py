"""Tests of model.inference."""
