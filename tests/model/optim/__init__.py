"""Tests of model.optim."""
