"""Tests of model.network."""
