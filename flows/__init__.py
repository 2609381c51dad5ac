"""Prefect flows: wiring and parameters, no logic."""
