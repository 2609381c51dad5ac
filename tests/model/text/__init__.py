"""Tests of model.text."""
