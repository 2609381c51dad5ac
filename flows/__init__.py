"""Prefect flows, one module each: the parts of the DAG they share, and their settings."""
