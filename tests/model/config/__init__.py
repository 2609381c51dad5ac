"""Tests of model.config."""
