"""Tests of model.export."""
