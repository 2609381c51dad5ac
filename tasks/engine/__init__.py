"""Execution of stages: pipeline, task runners, child processes, launchers."""
