"""Tests of model.runtime."""
